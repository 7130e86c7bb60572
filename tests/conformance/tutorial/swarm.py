"""Chapters 15 and 17: a cluster of one node, its services, their networks and published ports, and what updates do."""

ADDRESS = "10.99.0.1"


def begin(t):
    """Makes the daemon a manager. Its namespace has loopback only, so it is given an address first."""
    t.address(ADDRESS)
    t(f"swarm init --advertise-addr {ADDRESS}")
    t.sees(r"^Swarm initialized: current node \(\w{25}\) is now a manager\.$")


def runs(t, service, replicas, seconds=30):
    """Waits until so many tasks of a service run."""
    t.soon(f"service ls --filter name={service} --format '{{{{.Name}}}} {{{{.Replicas}}}}'", f"^{service} {replicas}/{replicas}$", seconds)


def updated(t, service, state="completed"):
    """Waits until an update has come to its end."""
    t.soon(f"service inspect --format '{{{{.UpdateStatus.State}}}}' {service}", f"^{state}$", 30)


def inside(t, service, command, pattern, seconds=10):
    """What a command says in a task of a service, kept without the container's name."""
    found = t.raw(f"ps -q --filter label=com.docker.swarm.service.name={service}").stdout.decode().split()
    if not found:
        return t.wrong(f"{service} has no container")
    t.soon(["exec", found[0], "sh", "-c", command], pattern, seconds)
    t.last.line = f"exec <{service}> {command}"


def answers(t, url, pattern):
    """Waits until a task answers as it should; which one does not matter."""
    t.fetch(url, pattern)
    t.steps.pop()


def cluster(t):
    """15.1 a cluster and its nodes"""
    t.fails("node ls", "This node is not a swarm manager")
    t.fails("service ls", "This node is not a swarm manager")
    begin(t)
    t.fails("swarm init", "This node is already part of a swarm")
    t.table("node ls")
    t("node ls --format '{{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}} {{.Self}}'")
    t.sees("^conformance Ready Active Leader true$")
    t("info --format '{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}} {{.Swarm.Nodes}} {{.Swarm.Managers}} {{.Swarm.NodeAddr}}'")
    t.sees(f"^active true 1 1 {ADDRESS}$")
    for role in ("worker", "manager"):
        t(f"swarm join-token {role}")
        t.sees(rf"swarm join --token SWMTKN-1-\w+-\w+ {ADDRESS}:2377$")
    token = t("swarm join-token -q worker")
    t("swarm join-token --rotate -q worker")
    t.holds("a rotated token is another one", t.last.out.strip() not in ("", token))
    t.fails("swarm join-token nosuch", "unknown role nosuch")
    t.fails(f"swarm join --token {token} {ADDRESS}:2377", "This node is already part of a swarm")
    t("node update --label-add zone=a conformance")
    t("node inspect --format '{{.Spec.Labels.zone}} {{.Spec.Role}} {{.Status.State}} {{.ManagerStatus.Leader}}' self")
    t.sees("^a manager ready true$")
    t.unsaid("node inspect --pretty self")
    t.table("node ps")
    t.fails("node rm conformance", "is a cluster manager", kind="status")
    t.table("network ls --filter scope=swarm")
    t.fails("swarm leave", "--force", kind="status")
    t("swarm leave --force")
    t("info --format '{{.Swarm.LocalNodeState}}'")
    t.sees("^inactive$")
    t.fails("node ls", "This node is not a swarm manager")


def services(t):
    """15.3 services, their tasks and their number"""
    begin(t)
    # There is nobody outside to ping.
    t("service create --name ping --stop-grace-period 1s --restart-delay 200ms alpine ping 127.0.0.1", kind="status")
    t.sees("converged")
    runs(t, "ping", 1)
    t.table("service ls")
    t.table("service ps ping")
    t.json("service inspect ping")
    t.unsaid("service inspect --pretty ping")
    t.sees(r"Service Mode:\s+Replicated")
    t.soon("service logs --tail 1 ping", "bytes from 127.0.0.1", kind="status")
    t("service update ping --detach --replicas 3")
    runs(t, "ping", 3)
    t.table("service ls")
    t.table("service ps ping")
    # A task whose container is removed is replaced.
    found = t.raw("ps -q --filter name=ping.2").stdout.decode().split()
    t(["container", "rm", "-f", *found], kind="status")
    t.last.line = "container rm -f <task>"
    t.soon("service ps --filter desired-state=shutdown --format '{{.Name}} {{.CurrentState}}' ping", r"^ping\.2 Failed", kind="status")
    runs(t, "ping", 3)
    t("service create --detach --name three --replicas 3 --stop-grace-period 1s alpine ping 127.0.0.1", kind="status")
    runs(t, "three", 3)
    t("service scale --detach ping=1 three=2")
    runs(t, "ping", 1)
    runs(t, "three", 2)
    t.table("service ls")
    t.table("service ls --filter mode=replicated --filter name=three")
    t("service ls -q --filter mode=global")
    t.sees(r"\A\Z")
    t.fails("service create --detach --name three alpine", "already exists")
    t.fails("service create -v /a:/b alpine", "unknown shorthand flag: 'v' in -v", status=None)
    t.fails("service create --replicas x alpine", "invalid argument", status=None)
    t.fails("service scale --detach nosuch=2", "service nosuch not found")
    t.fails("service ps nosuch", "no such service: nosuch")
    t("service rm ping three")
    t.fails("service rm ping", "service ping not found")
    t.soon("ps -q", r"\A\Z")
    t.table("service ls")
    t("swarm leave --force")


def network(t):
    """15.9 two services in a network of their own, behind the routing mesh"""
    begin(t)
    t("network create --driver overlay backend")
    t.table("network ls --filter name=backend")
    t.json("network inspect backend")
    t("service create --detach --name psql --network backend -e POSTGRES_PASSWORD=mypass --mount type=volume,source=db-data,target=/var/lib/postgresql/data postgres:9.4", kind="status")
    t("service create --name drupal --detach=true --network backend -p 80:80 --replicas 2 drupal", kind="status")
    runs(t, "psql", 1)
    runs(t, "drupal", 2)
    t.table("service ls")
    t.json("service inspect psql drupal")
    for address in ("127.0.0.1", ADDRESS):
        pages = {t.fetch(f"http://{address}/cgi-bin/site", "8.1 in development asks postgres of postgres") for _ in range(4)}
        del t.steps[-4:]
        t.note(f"how many answer at {address}", len(pages))
        t.sees("^2$")
    inside(t, "drupal", "nslookup -type=a tasks.drupal. | grep -c 'Address: 10'", "^2$")
    inside(t, "drupal", "nslookup -type=a psql. | grep -c 'Address: 10'", "^1$")
    t("volume ls -q --filter name=db-data")
    t.sees("^db-data$")
    t.fails("network rm backend", "in use by", kind="status")
    t.fails("service create --detach --name other -p 80:8000 nginx", "port '80' is already in use by service", kind="status")
    t("service rm psql drupal")
    t.soon("ps -aq", r"\A\Z")
    t("network rm backend")
    t("volume rm db-data")
    t("swarm leave --force")
    t.table("network ls --filter driver=overlay")


def updates(t):
    """15.11 rollbacks, newer images, variables and ports"""
    begin(t)
    t("service create --detach --name web -p 8080:80 --replicas 2 --update-parallelism 2 --update-monitor 500ms --rollback-parallelism 0 --rollback-monitor 500ms drupal", kind="status")
    runs(t, "web", 2)
    answers(t, "http://127.0.0.1:8080/cgi-bin/site", " 8.1 in development")
    t("service update --detach --image drupal:8.2 web", kind="status")
    updated(t, "web")
    t.table("service ls")
    t.unordered("service ps --format '{{.Name}} {{.Image}} {{.DesiredState}}' web")
    answers(t, "http://127.0.0.1:8080/cgi-bin/site", " 8.2 in development")
    t("service rollback --detach web", kind="status")
    updated(t, "web", "rollback_completed")
    answers(t, "http://127.0.0.1:8080/cgi-bin/site", " 8.1 in development")
    t.json("service inspect --format '{{json .Spec.TaskTemplate.ContainerSpec}}' web")
    t("service update --detach --env-add NODE_ENV=production --publish-rm 80 --publish-add 9090:80 web")
    updated(t, "web")
    answers(t, "http://127.0.0.1:9090/cgi-bin/site", " 8.1 in production")
    t("service inspect --format '{{json .Endpoint.Ports}} {{json .Spec.TaskTemplate.ContainerSpec.Env}}' web")
    t.sees('"PublishedPort":9090')
    t.table("service ls")
    t("service update --detach --env-rm NODE_ENV --publish-rm 80 web")
    updated(t, "web")
    t("service inspect --format '{{json .Endpoint}} {{json .Spec.TaskTemplate.ContainerSpec}}' web")
    t.holds("neither a port nor a variable is left", "9090" not in t.last.out and "production" not in t.last.out)
    t.steps.pop()
    old = set(t.raw("ps -q").stdout.split())
    t("service update --detach --force web", kind="status")
    updated(t, "web")
    t.soon("service inspect --format '{{.Spec.TaskTemplate.ForceUpdate}}' web", "^1$")
    t.holds("every task is another one", not old & set(t.raw("ps -q").stdout.split()))
    t.fails("service update --detach nosuch", "service nosuch not found")
    t.fails("service update --detach --publish-add x web", "invalid", status=None, kind="status")
    t("service rm web")
    t.soon("ps -q", r"\A\Z")
    t("swarm leave --force")


def health(t):
    """17.1 services replace what is not healthy, and updates wait for health"""
    begin(t)
    t("service create --detach --name page --health-cmd 'test ! -e /tmp/sick' --health-interval 300ms --health-retries 2 --restart-delay 100ms nginx", kind="status")
    runs(t, "page", 1)
    t("ps --format '{{.Image}} {{.Status}}'", kind="status")
    t.sees(r"\(healthy\)")
    found = t.raw("ps -q").stdout.decode().strip()
    t(["exec", found, "touch", "/tmp/sick"])
    t.last.line = "exec <task> touch /tmp/sick"
    t.soon("service ps --filter desired-state=shutdown --format '{{.Name}} {{.CurrentState}} {{.Error}}' page", r"^page\.1 Failed .*unhealthy", kind="status")
    runs(t, "page", 1)
    t.holds("another container runs", t.raw("ps -q").stdout.decode().strip() not in ("", found))
    served = t.raw("ps -q").stdout.decode().strip()
    # The new one is never healthy, so the old one is not touched.
    t("service update --detach --update-order start-first --update-failure-action pause --update-monitor 1s --rollback-monitor 500ms --health-cmd false page")
    updated(t, "page", "paused")
    t.holds("the old task still runs", served and served in t.raw("ps -q").stdout.decode().split())
    t("service rollback --detach page", kind="status")
    updated(t, "page", "rollback_completed")
    runs(t, "page", 1)
    t.json("service inspect --format '{{json .Spec.TaskTemplate.ContainerSpec.Healthcheck}}' page")
    t("service rm page")
    t.soon("ps -q", r"\A\Z")
    t("swarm leave --force")


SECTIONS = [cluster, health, network, services, updates]
