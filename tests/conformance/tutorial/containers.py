"""Chapters 2 to 5, 12 and 17: help, images that are found, containers and their terminals, logs, files, health."""

import json
import os
import re
import socket
import tarfile
import time
from urllib.parse import quote

from walk import PASSWORD, USER

# The commands of the tutorial, for their help.
COMMANDS = (
    "attach,build,commit,container attach,container commit,container cp,container create,container diff,container exec,container export,"
    "container inspect,container kill,container logs,container ls,container pause,container port,container prune,container rename,"
    "container restart,container rm,container run,container start,container stats,container stop,container top,container unpause,"
    "container update,container wait,container,cp,create,diff,events,exec,export,history,image build,image history,image import,"
    "image inspect,image load,image ls,image prune,image pull,image push,image rm,image save,image tag,image,images,import,info,"
    "inspect,kill,load,login,logout,logs,network connect,network create,network disconnect,network inspect,network ls,network prune,"
    "network rm,network,pause,port,ps,pull,push,rename,restart,rm,rmi,run,save,search,start,stats,stop,system df,system events,"
    "system info,system prune,system,tag,top,unpause,update,version,volume create,volume inspect,volume ls,volume prune,volume rm,"
    "volume,wait"
).split(",")


def usage(t):
    """2 help and unknown words"""
    for command in COMMANDS:
        t(f"{command} --help", kind="help", old=False)
    t.fails("insert", "unknown command: " + t.client + " insert")
    t.fails("container ll -ls", "unknown", status=None)
    t.fails("run", "requires at least 1 argument")
    t.fails("container start webserver -at webserver bash", "unknown shorthand flag: 't' in -t", status=None)
    t.fails("run --heatlh-cmd=true elasticsearch:2", "unknown flag: --heatlh-cmd", status=125)
    t.fails("run --health-start-period=30 elasticsearch:2", "missing unit in duration", status=125)
    t.fails("image push bretfisher/nginx bretfisher/nginx:testing", "requires 1 argument")
    t.fails("run --name my_container -p 6000:99999 ubuntu", "invalid", status=125)
    t.fails("container rm", "requires at least 1 argument")
    t.fails("network create", "requires 1 argument")


def first_container(t):
    """3 what happens when a container runs"""
    registry = t.registry()
    if registry:
        t("tag nginx", status=1)
        t(f"tag nginx {registry}/nginx")
        t(f"login -u {USER} --password-stdin {registry}", given=PASSWORD.encode())
        t(f"push {registry}/nginx")
        t(f"image rm {registry}/nginx")
        t(f"container run --name webhost --publish 80:80 -d {registry}/nginx")
        t.sees(rf"Unable to find image '{registry}/nginx:latest' locally")
        t(f"image ls {registry}/nginx --format '{{{{.Repository}}}} {{{{.Tag}}}} {{{{.Digest}}}}'")
        t.json("image inspect " + f"{registry}/nginx")
    else:
        t("container run --name webhost --publish 80:80 -d nginx")
    t.fetch("http://127.0.0.1/", "Welcome to nginx!")
    t.table("container ls")
    t("container logs webhost")
    t.fails("container run --publish 80:80 -d --name second nginx", "port is already allocated", status=125)
    t.table("container ls -a")
    t.api("/containers/webhost/json")
    t("container stop webhost")
    t.table("container ls -a --no-trunc")
    t("container rm webhost second")
    t("run -d --name hello -p 8080:8080 hello-world")
    t.soon("container ls --format '{{.Names}} {{.Status}}'", r"\(healthy\)")
    t.table("container ls")
    t.json("container inspect hello")
    t.fails("container rm hello", "stop the container before")
    t("container rm -f hello")


def about(t):
    """4.1 version and info"""
    t("version --format '{{.Server.Os}} {{.Server.Arch}}'")
    t.json("version --format '{{json .}}'")
    t.json("info --format '{{json .}}'")
    t.unsaid("info")
    t.sees("Server Version")
    t.api("/version")
    t.api("/info")
    t("info --format '{{.Driver}} {{.OSType}} {{.Containers}} {{.Images}} {{.LoggingDriver}} {{.CgroupDriver}} {{.CgroupVersion}}'")
    t.table("system df")
    t.json("system df --format json")
    t.api("/system/df")
    t("--version", status=None, kind="status")


def finding(t):
    """4.2 looking for images and fetching them"""
    index = t.index()
    t.table(f"search {index}/node")
    t.table(f"search --no-trunc {index}/node")
    t.table(f"search --limit 1 {index}/node")
    t.json(f"search --format '{{{{json .}}}}' {index}/ubuntu")
    t(f"search --format '{{{{.Name}}}}: {{{{.StarCount}}}} {{{{.IsOfficial}}}}' {index}/node")
    t.table(f"search --filter is-official=true --filter stars=50 --no-trunc {index}/node")
    t.fails(f"search --filter nosuch=1 {index}/node", "invalid filter")
    t.fails("search", "requires 1 argument")
    t.unordered("image ls")
    t.table("image ls nginx")
    t.table("image ls --no-trunc ubuntu:16.04")
    t.table("image ls --digests nginx")
    t("image ls -q ubuntu:latest")
    t.json("image ls --format '{{json .}}' nginx")
    t.api("/images/json?filters=" + quote('{"reference":["nginx"]}'))
    t.json("image inspect nginx")
    page = t.api("/images/nginx/json")
    t.holds("older clients find each field of a container's configuration", not page or {"Hostname", "Labels", "Volumes", "Image", "OnBuild"} <= set(page["Config"]))
    t.fails("image inspect nosuch", "No such image")
    t.fails("pull ubuntu:UPPER:x", "invalid reference format")
    t.fails("pull 127.0.0.1:1/ubuntu", "connection refused")


def running(t):
    """4.5 containers with parameters"""
    t("container run ubuntu")
    t("run ubuntu:16.04 echo from 16.04")
    t.sees("^from 16.04$")
    t("run --name my_container -d -p 6000:5000 -e WHO=world -e EMPTY= busybox sh -c 'echo hello $WHO; sleep 1000'")
    t.soon("logs my_container", "hello world")
    t.table("container ls")
    t.table("container ls -a")
    t.table("container ls -ls")
    t.table("container ls -a -s --format 'table {{.Names}}\t{{.Image}}\t{{.Command}}\t{{.Size}}'")
    t.json("container ls -a --format '{{json .}}'")
    t.json("container ls --format json")
    t.json("container inspect my_container")
    t.api("/containers/my_container/json")
    t.api("/containers/json?all=1&size=1")
    t("inspect --format '{{.State.Status}} {{len .Config.Env}} {{json .NetworkSettings.Ports}}' my_container")
    t("port my_container")
    t("port my_container 5000")
    t("stop -t 0 my_container")
    t("start my_container")
    t("restart -t 0 my_container")
    t("exec my_container echo inside")
    t("exec -e A=b -w /tmp -u nobody my_container sh -c 'echo $A; pwd; id -u'")
    t.fails("exec my_container nosuch", "executable file not found", status=126 if t.old else 127)
    t.fails("run --name my_container busybox", "is already in use by container", status=125)
    t.fails("run --name bad busybox nosuch", "executable file not found", status=127)
    t.note("an end is told of a container that has not started", t.wakes_waiters("bad"))
    t.sees("False")
    t.fails("run --rm busybox /etc", "unable to start container process: exec: \"/etc\": ", status=126)
    t.table("container ls -a --filter name=bad")
    t("run --rm busybox sh -c 'exit 3'", status=3)
    t("run --rm -i busybox cat", given=b"through cat\n")
    t("create --name made busybox echo made")
    t("start -a made")
    t("rename made renamed")
    t("wait renamed")
    t("kill my_container")
    t("wait my_container")
    t.json("inspect --format '{{json .State}}' my_container")
    t.table("ps -n 2")
    t.table("ps --filter status=exited --filter exited=137")
    t("ps -aq --no-trunc")
    t("rm my_container renamed")
    t.fails("rm my_container", "No such container")


def terminals(t):
    """4.9 terminals"""
    t("container run --name webserver -it -p 8080:80 -d httpd bash")
    t.table("container ls")
    t.terminal("attach webserver", (rb"", b"echo at$((1+1))tached; exit 4\n"), (rb"at2tached", None))
    t.holds("the status of the shell", t.last.status == 4)
    t.fails("container start webserver -at webserver bash", "unknown shorthand flag", status=125)
    t.terminal("container start -ai webserver", (rb"", b"echo a$((2+2))gain\n"), (rb"a4gain", b"exit\n"))
    t("start webserver")
    t.terminal("container exec -it webserver bash", (rb"# ", b"tty; echo in$((3+3))side\n"), (rb"/dev/pts/\d+\r\n", None), (rb"in6side", b"exit 5\n"))
    t.holds("the status of the command", t.last.status == 5)
    t.table("container ls")
    t.terminal("attach --detach-keys ctrl-a,d webserver", (rb"", b"\n"), (rb"# ", b"\x01d"))
    t("inspect --format '{{.State.Running}} {{.Config.Tty}} {{.Config.OpenStdin}}' webserver")
    t.terminal("container run -it --name proxy nginx bash", (rb"# ", b"echo $TERM; exit\n"), (rb"xterm", None))
    t.table("container ls -a --filter name=proxy")
    t.fails("run -it busybox true", "the input device is not a TTY", status=1, given=b"")
    t.fails("exec proxy true", "is not running")


def processes(t):
    """4.10 processes, statistics and details"""
    t("container run -d --name web -m 64m --cpus 0.5 --label of=tutorial --restart on-failure:3 --hostname there nginx")
    t.soon("logs web", "nginx is ready")
    t.json(f"events --since {t.began} --until {time.time():.6f} --format '{{{{json .}}}}' --filter container=web --filter event=start")
    t(f"events --since {t.began} --until {time.time():.6f} --filter container=web --format '{{{{.Type}}}} {{{{.Action}}}} {{{{.Actor.Attributes.image}}}}'")
    t.table("container top web")
    t.table("container top web -o pid,comm,args")
    t.table("top web aux", kind="status")
    t.sees("httpd -f -p 80")
    t.table("container stats --no-stream web")
    t.json("container stats --no-stream --format '{{json .}}' web")
    t.json("container inspect web")
    t.api("/containers/web/json")
    t.api("/containers/web/top?ps_args=-o%20pid,args")
    t.json("container inspect --format '{{json .HostConfig}}' web")
    t.json("container inspect --size --format '{{json .}}' web")
    t("exec web touch /new")
    t("exec web sh -c 'echo changed > /usr/share/nginx/html/index.html; rm /etc/group'")
    t.unordered("diff web")
    t("pause web")
    t.table("container ls")
    t.fails("exec web true", "Container web is paused")
    t("unpause web")
    t("update --cpus 1 --memory 96m --memory-swap 192m web")
    t("inspect --format '{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}' web")
    t("stop web")
    t.fails("top web", "is not running")


def logs(t):
    """5 variables and logs"""
    t("container run -d --name db -p 3306:3306 -e MYSQL_RANDOM_ROOT_PASSWORD=yes mysql")
    t.soon("container logs db", "mysqld: ready", kind="status")
    t.sees("GENERATED ROOT PASSWORD: [0-9a-f]{8}")
    t("container run --name refused mysql", status=1)
    t.sees("password option is not specified")
    t("logs refused")
    t("run -d --name talks busybox sh -c 'for i in 1 2 3 4; do echo line $i; echo to errors >&2; done'")
    t("wait talks")
    t("logs --tail 2 talks", kind="status")
    t("logs -t --tail 1 talks", kind="status")
    t("logs -f talks", kind="unordered")
    t.fails("logs nosuch", "No such container")
    t("run -dit --name labelled --log-opt labels=production_status --log-opt env=os --label production_status=testing -e os=ubuntu alpine sh -c 'echo told'")
    t.soon("logs --details labelled", "os=ubuntu,production_status=testing told")
    t("run -d --name local --log-driver local --log-opt max-size=10m busybox echo of the local driver")
    t.soon("logs local", "local driver")
    t("run -d --name mute --log-driver none busybox echo unheard")
    t("wait mute")
    t.fails("logs mute", "configured logging driver does not support reading")
    t("run -d --name rotated --log-opt max-size=1k --log-opt max-file=2 busybox sh -c 'for i in $(seq 200); do echo line $i; done'")
    t("wait rotated")
    t("logs --tail 1 rotated")
    t.json("inspect --format '{{json .HostConfig.LogConfig}}' labelled rotated mute")
    t.fails("run --log-opt nosuch=1 busybox", "unknown log opt", status=125)
    t.fails("run --log-driver nosuch busybox", "nosuch", status=125, old=False)


def host_logs(t):
    """12.2 logs that go to the host's own"""
    place = os.path.join(t.place, "syslog")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(place)
        server.settimeout(20)
        t(f"run -d --name told --log-driver syslog --log-opt syslog-address=unixgram://{place} --log-opt tag={{{{.Name}}}} --log-opt syslog-facility=local3 busybox echo to syslog")
        # Without its time, its host and the number of the process that sends it.
        line = server.recv(4096).decode(errors="replace")
        t.note("what syslog is told", re.sub(r"^(<\d+>).* (\S+)\[\d+\]: ", r"\1 \2: ", line.strip()))
        t.sees("^<158> told: to syslog$")
        t("wait told")
        t("logs told")
        t.json("inspect --format '{{json .HostConfig.LogConfig}}' told")
    t.fails("run --log-driver syslog --log-opt syslog-facility=nosuch busybox", "facility", status=125, kind="status")
    line = "run -d --name journal --log-driver journald --log-opt tag=word busybox echo to the journal"
    if os.path.exists("/run/systemd/journal/socket"):
        t(line)
    else:
        t.fails(line, "journald is not enabled on this host", status=None, kind="status", old=False)
        t("inspect --format '{{.State.Status}}' journal", old=False)


def copying(t):
    """4.1 cp, commit, export, import, save and load"""
    t("run -d --name box busybox sleep 1000")
    t("cp app/notes.txt box:/tmp/notes.txt")
    t("exec box cat /tmp/notes.txt")
    t.sees("notes.txt is added")
    t("cp box:/tmp/notes.txt back.txt")
    t.note("back.txt", open(os.path.join(t.place, "back.txt")).read())
    t.fails("cp box:/nosuch .", "Could not find the file /nosuch in container box")
    t("commit -m 'with notes' -a nebul4ck --change 'CMD [\"cat\", \"/tmp/notes.txt\"]' --change 'EXPOSE 8080' box nebul4ck/boxed:1.0")
    t("run --rm nebul4ck/boxed:1.0")
    t.sees("notes.txt is added")
    t.json("image inspect nebul4ck/boxed:1.0")
    t.api("/images/nebul4ck/boxed:1.0/json")
    t.table("history nebul4ck/boxed:1.0")
    t("export -o box.tar box")
    with tarfile.open(os.path.join(t.place, "box.tar")) as archive:
        t.note("names in box.tar", "\n".join(sorted(name.strip("/") for name in archive.getnames() if not name.startswith(("dev", "proc", "sys")))))
    t("import -m imported -c 'CMD echo imported' box.tar nebul4ck/imported:1")
    t("run --rm nebul4ck/imported:1")
    t.json("image inspect nebul4ck/imported:1")
    t.table("history nebul4ck/imported:1")
    t.table("history nginx")
    t.sees("Imported from -$")
    t("save -o saved.tar nebul4ck/boxed:1.0 nebul4ck/imported:1")
    with tarfile.open(os.path.join(t.place, "saved.tar")) as archive:
        pages = json.load(archive.extractfile("manifest.json"))
        t.note("tags in saved.tar", sorted(tag for page in pages for tag in page["RepoTags"]))
        t.note("layers in saved.tar", sorted(len(page["Layers"]) for page in pages))
        t.note("repositories in saved.tar", sorted(json.load(archive.extractfile("repositories"))))
    t("rmi nebul4ck/imported:1")
    t.unordered("load -i saved.tar")
    t.sees("Loaded image: nebul4ck/imported:1")
    t("rmi nebul4ck/boxed:1.0 nebul4ck/imported:1")
    t.fails("load -i nosuch.tar", "no such file")


def removing(t):
    """4.11 removing and pruning"""
    t("volume create mysql-data")
    t("container run --name gone busybox true")
    t("container run -d --name kept -v kept-data:/d busybox sleep 1000")
    t("tag busybox nebul4ck/busybox:old")
    t("network create unused")
    t("image rm nebul4ck/nosuch", status=1)
    t.fails("volume rm kept-data", "volume is in use")
    t.fails("rm kept", "running container" if t.old else "container is running")
    t("image rm nebul4ck/busybox:old")
    t("volume rm mysql-data")
    t.fails("volume rm nosuch", "no such volume")
    t.fails("image rm nosuch", "No such image")
    t.fails("network rm nosuch", "not found")
    t("container rm gone")
    t("container run --name gone busybox true")
    t("container prune -f")
    t("container prune -f")
    t("volume create unused-data")
    t("volume create")
    t("volume prune -f", kind="unordered")
    t.unordered("volume ls -q")
    t("network prune -f")
    t("image prune -f")
    t("container run --name temporary --rm -d nginx")
    t("stop temporary")
    t.soon("container ls -a --format '{{.Names}}'", r"\A(kept\n)?\Z")
    t.table("container ls -a")
    t("volume rm -f unused-data")
    t("system prune -f")
    t.table("system df")
    t("system df -v", kind="status")
    t.sees("Local Volumes space usage")
    t.sees("kept-data")


def health(t):
    """17 health checks"""
    t("run -d --name elastic --health-cmd='curl -f localhost:9200/ || false' --health-interval=500ms --health-retries=3 --health-timeout=2s elasticsearch:2")
    t.sees(".")
    t.soon("inspect --format '{{.State.Health.Status}}' elastic", "^healthy$")
    t.table("container ls")
    page = t.json("inspect --format '{{json .State.Health}}' elastic", kind="status")
    t.note("fields of its health", sorted(page))
    t.note("fields of its log", sorted(page["Log"][0]))
    t.note("first outputs", [(entry["ExitCode"], json.loads(entry["Output"].strip())["name"] != "") for entry in page["Log"] if entry["ExitCode"] == 0][:1])
    t.json("inspect --format '{{json .Config.Healthcheck}}' elastic")
    t("run -d --name sick --health-cmd='echo it is sick; exit 1' --health-interval=200ms --health-retries=2 busybox sleep 1000")
    t("inspect --format '{{.State.Health.Status}}' sick", kind="status")
    t.soon("inspect --format '{{.State.Health.Status}}' sick", "^unhealthy$")
    t.table("container ls")
    t.table("container ls --filter health=unhealthy")
    time.sleep(1.5)
    page = t.json("inspect --format '{{json .State.Health}}' sick", kind="status")
    t.note("the last five", (len(page["Log"]), page["Status"], {(entry["ExitCode"], entry["Output"]) for entry in page["Log"]}))
    t("run -d --name slow --health-cmd='sleep 10' --health-interval=200ms --health-timeout=300ms --health-retries=1 busybox sleep 1000")
    t.soon("inspect --format '{{.State.Health.Status}}' slow", "^unhealthy$")
    page = t.json("inspect --format '{{json .State.Health}}' slow", kind="status")
    t.note("a check that takes too long", (page["Log"][0]["ExitCode"], page["Log"][0]["Output"]))
    t("create --name patient --health-cmd=true --health-interval=5s --health-timeout=2s --health-retries=3 --health-start-period=15s elasticsearch:2")
    t.json("inspect --format '{{json .Config.Healthcheck}}' patient")
    t("run -d --name none --no-healthcheck hello-world")
    t.json("inspect --format '{{json .State}}' none")
    t.json("inspect --format '{{json .Config.Healthcheck}}' none")
    t.fails("run --no-healthcheck --health-cmd=true busybox", "--no-healthcheck conflicts with --health-* options", status=125)
    t.unordered(f"events --since {t.began} --until {time.time():.6f} --filter container=sick --filter event=health_status --format '{{{{.Action}}}}'")
    t("stop elastic")
    t("inspect --format '{{.State.Health.Status}}' elastic")
    t.sees("^unhealthy$")


SECTIONS = [usage, first_container, about, finding, running, terminals, processes, logs, host_logs, copying, removing, health]
