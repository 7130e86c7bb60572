"""Chapter 16: stacks of compose files, among them the voting app, and secrets."""

import os
import shutil

import harness
from swarm import begin, inside, runs

EXAMPLES = os.path.join(harness.REPOSITORY, "deploy", "examples")


def stack(t):
    """16.1 a stack with the keys of deploy"""
    begin(t)
    t.unordered("stack deploy --detach=true -c shop/docker-compose.yml shop")
    t.sees("Ignoring unsupported options: build")
    runs(t, "shop_web", 2)
    runs(t, "shop_every", 1)
    t.table("stack ls")
    t.table("stack services shop")
    t.unordered("stack ps --format '{{.Name}} {{.Image}} {{.Node}} {{.DesiredState}} {{.Ports}}' shop")
    t.table("stack services --filter name=shop_web shop")
    t.table("service ls")
    t.table("network ls --filter label=com.docker.stack.namespace=shop")
    t.table("config ls")
    for service in ("web", "every"):
        t.json(f"service inspect --format '{{{{json .Spec}}}}' shop_{service}")
    t.fetch("http://127.0.0.1:8080/", "Welcome to nginx!")
    inside(t, "shop_web", "curl every", "^the page of the stack$")
    # An unchanged file changes nothing, a changed one only what it says.
    old = set(t.raw("ps -q").stdout.split())
    t.unordered("stack deploy --detach=true --resolve-image never -c shop/docker-compose.yml shop")
    t.holds("the same tasks run", old == set(t.raw("ps -q").stdout.split()))
    file = os.path.join(t.place, "shop", "docker-compose.yml")
    with open(file) as text:
        changed = text.read().replace("replicas: 2", "replicas: 1")
    with open(file, "w") as text:
        text.write(changed)
    t.unordered("stack deploy --detach=true --resolve-image never --prune -c shop/docker-compose.yml shop")
    runs(t, "shop_web", 1)
    t.table("stack services shop")
    t.fails("stack deploy -c nosuch.yml shop", "no such file or directory", kind="status")
    t.fails("stack ps nosuch", "nothing found in stack: nosuch")
    t("stack services nosuch", status=None)
    t.unordered("stack rm shop")
    t.soon("ps -aq", r"\A\Z")
    t.soon("network ls -q --filter driver=overlay --filter label=com.docker.stack.namespace", r"\A\Z")
    t("config ls -q")
    t.sees(r"\A\Z")
    t.table("stack ls")
    t("swarm leave --force")


def voting(t):
    """16.1 the voting app"""
    for name in ("voting", "stand-ins"):
        shutil.copytree(os.path.join(EXAMPLES, name), os.path.join(t.place, name))
    # Docker's client adds the words of a second file's check to those of the first, ours takes the second's alone.
    file = os.path.join(t.place, "voting", "compose.yml")
    with open(file) as text:
        lines = [line for line in text if "test:" not in line]
    with open(file, "w") as text:
        text.writelines(lines)
    t("tag busybox busybox:1.36")
    t("image build -q -t examples/stand-in:1 stand-ins")
    begin(t)
    t.unordered("stack deploy --detach=true --resolve-image never -c voting/compose.yml -c voting/stand-ins.yml voteapp")
    for service, replicas in (("vote", 1), ("redis", 1), ("worker", 2), ("db", 1), ("result", 1)):
        runs(t, f"voteapp_{service}", replicas)
    t.table("stack ls")
    t.table("stack services voteapp")
    t.unordered("stack ps --format '{{.Name}} {{.Image}} {{.DesiredState}}' voteapp")
    t.fetch("http://127.0.0.1:5000/cgi-bin/vote?cats", "voted cats: OK")
    t.fetch("http://127.0.0.1:5000/cgi-bin/vote?dogs", "voted dogs: OK")
    t.fetch("http://127.0.0.1:5001/cgi-bin/result", r"cats 1[\s\S]*dogs 1")
    t("service scale --detach voteapp_vote=2")
    runs(t, "voteapp_vote", 2)
    t.fetch("http://127.0.0.1:5000/cgi-bin/vote?cats", "voted cats: OK")
    t.fetch("http://127.0.0.1:5001/cgi-bin/result", "cats 2")
    t.unordered("stack rm voteapp")
    t.soon("ps -aq", r"\A\Z")
    t.soon("network ls -q --filter driver=overlay --filter label=com.docker.stack.namespace", r"\A\Z")
    t("volume ls -q")
    t.sees("^voteapp_db-data$")
    t("swarm leave --force")


def secrets(t):
    """16.2 secrets of services"""
    begin(t)
    t("secret create psql_usr psql/psql_user.txt")
    t("secret create psql_pass -", given=b"myDBpassWORD\n")
    t.fails("secret create psql_pass psql/psql_password.txt", "already exists")
    t.fails("secret create more nosuch.txt", "no such file or directory", kind="status")
    t.table("secret ls")
    t.json("secret inspect psql_usr")
    t("secret inspect --pretty psql_pass", kind="status")
    t.holds("nobody is told what it is", "myDB" not in t.last.out)
    t("service create --detach --name psql --secret psql_usr --secret psql_pass -e POSTGRES_PASSWORD_FILE=/run/secrets/psql_pass -e POSTGRES_USER_FILE=/run/secrets/psql_usr postgres", kind="status")
    runs(t, "psql", 1)
    inside(t, "psql", "cd /run/secrets; head *; stat -c %a psql_pass; grep -c '/run/secrets.* tmpfs ' /proc/mounts", "^myDBpassWORD$")
    inside(t, "psql", "nc -w 2 127.0.0.1 5432 < /dev/null", "^postgres of dbuser$")
    # docker's client sends them in the order of a map: in none.
    t.unordered("service inspect --format '{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{println (json .)}}{{end}}' psql")
    t.fails("secret rm psql_usr", "is in use by the following service: psql", kind="status")
    # What is in use is not changed, but replaced.
    t("secret create psql_pass2 -", given=b"another\n")
    t("service update --detach --secret-rm psql_pass --secret-add source=psql_pass2,target=psql_pass,mode=0400 psql")
    t.soon("service inspect --format '{{.UpdateStatus.State}}' psql", "^completed$", 30)
    inside(t, "psql", "cd /run/secrets; head *; stat -c %a psql_pass", "^another$")
    t.fails("service update --detach --secret-add nosuch psql", "secret not found: nosuch")
    t.fails("service create --detach --secret nosuch postgres", "secret not found: nosuch")
    t("secret rm psql_pass")
    t("service rm psql")
    t("secret rm psql_usr psql_pass2")
    t.fails("secret rm psql_usr", "psql_usr not found", kind="status")
    t.table("secret ls")
    t("swarm leave --force")


def secrets_of_stacks(t):
    """16.2 secrets of stacks, from files and from outside"""
    begin(t)
    t.unordered("stack deploy --detach=true -c psql/docker-compose.yml mydb")
    runs(t, "mydb_psql", 1)
    t.table("secret ls")
    t.json("secret inspect mydb_psql_user")
    inside(t, "mydb_psql", "cd /run/secrets; head *", "^QpqQcgD7dxVG$")
    inside(t, "mydb_psql", "nc -w 2 127.0.0.1 5432 < /dev/null", "^postgres of dbuser$")
    t.soon("service logs --raw mydb_psql", "^postgres: ready for dbuser")
    t.unordered("stack rm mydb")
    t.soon("ps -aq", r"\A\Z")
    t("secret ls -q")
    t.sees(r"\A\Z")
    t.fails("stack deploy --detach=true -c psql/external.yml mydb", "psql_", kind="status")
    t("secret create psql_usr psql/psql_user.txt")
    t("secret create psql_pass -", given=b"from outside\n")
    # Of the deploy that failed docker's client has left a network, ours nothing.
    t.unsaid("stack deploy --detach=true -c psql/external.yml mydb")
    runs(t, "mydb_psql", 1)
    inside(t, "mydb_psql", "cd /run/secrets; head *; stat -c %a *", "^from outside$")
    t.unordered("stack rm mydb")
    t.soon("ps -aq", r"\A\Z")
    # They are not the stack's own.
    t("secret ls --format '{{.Name}}'")
    t.sees("^psql_pass\npsql_usr$")
    t("secret rm psql_usr psql_pass")
    t("swarm leave --force")


SECTIONS = [stack, voting, secrets, secrets_of_stacks]
