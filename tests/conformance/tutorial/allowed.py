"""What may differ, and why. dockerd of version 28 is right where it differs from 20.10."""

import re

# Which comparison ("dockerd": with dockerd 20.10, "skep": of our client with docker's), command, place in the answer, reason.
ALLOWED = [
    # Versions, and what a build of Go has and ours has not.
    ("skep", "version *", "Client.*", "another client"),
    ("skep", "info *", "ClientInfo.*", "another client"),
    ("skep", "*build --help", "output", "ours takes some flags of docker's other builder as well"),
    ("skep", "network --help", "output", "ours checks networks as well"),
    ("skep", "image --help", "output", "ours brings images to a cluster without a registry as well"),
    ("skep", "volume --help", "output", "ours knows which node has the volumes of a slot as well"),
    ("skep", "info *", "NFd", "a number of its own"),
    ("dockerd", "*version*", "*", "another server"),
    ("dockerd", "*info*", "*Version", "another server"),
    ("dockerd", "*info*", "Plugins.Log", "log drivers of other companies' services are not ours"),
    ("dockerd", "*info*", "DriverStatus", "28 tells of metacopy"),
    ("dockerd", "*info*", "KernelMemory*", "omitted since 28"),
    ("dockerd", "*info*", "Runtimes.*", "ours runs containers itself"),
    ("dockerd", "*info*", "DefaultRuntime", "ours runs containers itself"),
    ("dockerd", "*info*", "InitBinary", "ours is an init itself"),
    ("dockerd", "info *", "*Commit.Expected", "omitted since API 1.49"),
    ("dockerd", "*info*", "*Commit.*", "ours is no build of Go with these parts"),
    ("dockerd", "*info*", "LiveRestoreEnabled", "ours always leaves containers running"),
    ("dockerd", "*info*", "SecurityOptions.0", "28 calls its profile builtin"),
    ("dockerd", "*info*", "CDISpecDirs", "null where CDI is off; 20.10 has none"),
    ("dockerd", "*info*", "NFd", "a number of its own"),
    ("dockerd", "*info*", "NGoroutines", "a number of its own"),
    ("dockerd", "*info*", "Name", "the script gives ours a name"),
    ("dockerd", "*info*", "OperatingSystem", "dockerd finds that it is the first process of a namespace"),
    ("dockerd", "*info*", "Warnings", "a list since 28; the kernel's settings are told once the first network is made"),
    ("dockerd", "*info*", "IPv4Forwarding", "dockerd switches it on when it starts, ours with the first network"),
    ("dockerd", "*info*", "RegistryConfig.InsecureRegistryCIDRs", "28 adds ::1/128"),
    ("dockerd", "info *", "BridgeNf*", "omitted since API 1.50"),
    ("dockerd", "GET /info", "BridgeNf*", "always false since 28"),
    ("dockerd", "GET /info", "RegistryConfig.AllowNondistributable*", "null since 28"),
    ("dockerd", "*/system/df*", "BuildCache", "a list since 28"),
    # Images.
    ("dockerd", "*image inspect *", "*Container", "omitted since API 1.45"),
    ("dockerd", "*image inspect *", "*ContainerConfig", "omitted since API 1.45"),
    ("dockerd", "*image inspect *", "*VirtualSize", "omitted since API 1.44"),
    ("dockerd", "*image inspect *", "0.Config.*", "of its configuration only what is set since API 1.50"),
    ("dockerd", "*image inspect *", "*DockerVersion", "another server"),
    ("dockerd", "*/images/*", "DockerVersion", "another server"),
    ("dockerd", "*/images/*/json", "Container*", "28 leaves it empty for images that it has not built itself"),
    ("dockerd", "GET /images/*/json", "Config.Hostname", "28 tells of an image's configuration only what the OCI knows; the field is there, and empty"),
    ("dockerd", "GET /images/*/json", "Config.Image", "28 tells of an image's configuration only what the OCI knows; the field is there, and empty"),
    ("dockerd", "GET /images/*/json", "Config.Labels", "none is null with us, and with dockerd what the client of the commit or build had sent"),
    ("dockerd", "*", "*Images.*.RepoDigests", "a list since 28"),
    ("dockerd", "GET /images/json*", "*RepoDigests", "a list since 28"),
    # Containers.
    ("dockerd", "*", "*HostConfig.NetworkMode", "28 writes the default network's name"),
    ("dockerd", "*", "NetworkMode", "28 writes the default network's name"),
    ("dockerd", "*", "*MaskedPaths", "28 hides more of /proc and /sys"),
    ("dockerd", "*", "*KernelMemory*", "omitted since 28 where it is not set"),
    ("dockerd", "*", "*RestartPolicy.Name", "28 writes no where a client has not chosen"),
    ("dockerd", "exec my_container nosuch", "status", "127 since 28"),
    ("dockerd", "history *", "row *, CREATED BY", "28 tells of StartInterval, and puts a space before what is copied"),
    # Networks and volumes.
    ("dockerd", "network ls *", "*.IPv4", "since API 1.47"),
    ("dockerd", "network inspect * bridge", "output", "20.10 tells the gateway only where docker0 was there before"),
    ("dockerd", "*", "*.DNSNames", "since API 1.44"),
    ("dockerd", "inspect *", "*.Aliases", "the short id is a DNS name and no alias since API 1.45"),
    ("dockerd", "inspect *", "*.Aliases.*", "the short id is a DNS name and no alias since API 1.45"),
    ("dockerd", "volume prune -f", "output", "without --all only volumes without a name since API 1.42"),
    ("dockerd", "volume ls -q", "output", "without --all only volumes without a name are pruned since API 1.42"),
    # Processes.
    ("dockerd", "*env; ls /dev*", "output", "dockerd of 20.10 makes no link /dev/core"),
    # Stacks.
    ("skep", "stack deploy *", "errors", "ours says where in the file an option is that is ignored, and tells of digests for new services too"),
    ("skep", "service inspect *", "*.Privileges.*", "ours leaves out what is not set"),
    # Compose starts services beside each other.
    ("dockerd", "--project-directory * up *", "errors", "in no order"),
    ("dockerd", "inspect *_1", "*.IPAddress", "in no order"),
    ("dockerd", "inspect *_1", "*.IPAMConfig", "docker-compose finds the short id among the aliases before the start since 28, and does not connect once more"),
    ("dockerd", "network inspect *_default", "*.IPv4Address", "in no order"),
]

# What dockerd 20.10 says in other words than 28 does: a pattern, and what is left of it. For both sides.
REWORDED = [
    (r"You cannot remove a running container <id>\. Stop the container before attempting removal or force remove", "<is running>"),
    (r'cannot remove container "[\w-]+": container is running: stop the container before removing or force remove', "<is running>"),
    (r"\bContainer (?=<id> is not running)", "container "),
    (r"failed to set up container networking: ", ""),
    (r"failed to create task for container: ", ""),
    # Ours is no runc.
    (r"OCI runtime create failed: runc create failed: ", "OCI runtime create failed: "),
    (r": unknown(?=$|\n)", ""),
    (r'exec: "/etc": (is a directory|permission denied)(: unknown)?(: permission denied)?', "<directory>"),
    (r"\bInvalid filter ", "invalid filter "),
    (r"no such image: (\S+): No such image: ", "No such image: "),
    (r"dockerfile parse error line ", "dockerfile parse error on line "),
    (r"dockerfile parse error on line \d+: no build stage", "no build stage"),
    (r"\bRange of CPUs", "range of CPUs"),
    (r"network (\S+) id <id> has active endpoints", r"network \1 has active endpoints"),
    (r'has active endpoints \(name:"[\w-]+" id:"<id>"\)', "has active endpoints"),
    (r"(Removing| ---> Removed) intermediate container <id>", "<removed>"),
    (r"dial tcp: lookup registry-1\.docker\.io\b.*", "<no names>"),
    (r"could not find plugin \S+ in v1 plugin registry: ", ""),
]


def reworded(text):
    for pattern, instead in REWORDED:
        text = re.sub(pattern, instead, text)
    return text
