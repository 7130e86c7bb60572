"""Chapters 7, 8 and 12: images that are built, extended and published, volumes, layers."""

import io
import json
import os
import tarfile
from urllib.parse import quote

from walk import PASSWORD, USER


def building(t):
    """7.3 building images"""
    t("image build -t nebul4ck/newapp:1.0 -f app/miDockerfileApp app")
    t.sees("Fetching GPG key from ha.pool.example")
    t("image build -t nebul4ck/newapp:1.0 -f app/miDockerfileApp app")
    t.sees("Using cache")
    t.fails("image build -t nebul4ck/newApp:1.0 -f app/miDockerfileApp app", "must be lowercase", status=None)
    t.json("image inspect nebul4ck/newapp:1.0")
    t.api("/images/nebul4ck/newapp:1.0/json")
    t.table("history nebul4ck/newapp:1.0")
    t.table("history --no-trunc nebul4ck/newapp:1.0")
    t.json("history --format '{{json .}}' nebul4ck/newapp:1.0")
    t.api("/images/nebul4ck/newapp:1.0/history")
    t.table("image ls nebul4ck/newapp")
    t("run --rm nebul4ck/newapp:1.0 cat /etc/packages")
    t.sees(r"nginx=1.13.6-1~stretch njs=1.13.6.0.1.14-1~stretch")
    t("run -d --name app -P nebul4ck/newapp:1.0")
    t.table("container ls")
    t("image build -q -t quiet nginx-proof")
    t("image build nginx-proof")
    t("image build --label more=1 --build-arg WHO=nobody nginx-proof")
    t("image build -t nostdin -", given=b"FROM busybox\nRUN echo from a pipe > /piped\n")
    t("run --rm nostdin cat /piped")
    with open(os.path.join(t.place, "app", "bad"), "w") as file:
        file.write("FROM busybox\nRUN exit 7\n")
    t.fails("image build -f app/bad app", "The command '/bin/sh -c exit 7' returned a non-zero code: 7", status=None)
    for text in ("FROM busybox\nNOSUCH x\n", "FROM busybox\nCOPY nosuch /\n", "RUN true\n", "FROM busybox\nCOPY --from=nosuch:1 /a /b\n", "", "FROM busybox\nUSER\n"):
        with open(os.path.join(t.place, "app", "bad"), "w") as file:
            file.write(text)
        t("image build -f app/bad app", status=None)
        t.holds("it is refused", t.last.status != 0)
    t.fails("image build nosuch", "nosuch")
    t.fails("image build app -f nosuch", "nosuch")


def stages(t):
    """7.3 every instruction"""
    with tarfile.open(os.path.join(t.place, "app", "extra.tar"), "w") as archive:
        info = tarfile.TarInfo("extra/file")
        info.size, info.mtime = 6, 1767225600
        archive.addfile(info, io.BytesIO(b"extra\n"))
    t("image build -t nebul4ck/app:1.0 --build-arg WHO=world app")
    t.json("image inspect nebul4ck/app:1.0")
    t.api("/images/nebul4ck/app:1.0/json")
    t.table("history --no-trunc nebul4ck/app:1.0")
    t("run --name app nebul4ck/app:1.0")
    t.sees("^hello from world: the default$")
    t("run --rm nebul4ck/app:1.0 other words")
    t("run --rm --entrypoint sh nebul4ck/app:1.0 -c 'id -u; pwd; ls -l /opt/extra | wc -l; cat /data/seed; stat -c %u /home/notes.txt /data/seed; ls /src 2>&1'", status=1)
    t.json("inspect --format '{{json .Config}}' app")
    t("rm app")
    t("image build -t stage --target builder --build-arg WHO=stage app")
    t("run --rm stage cat /src/app")
    with open(os.path.join(t.place, "nginx-proof", "child"), "w") as file:
        file.write("FROM nebul4ck/app:1.0\nENV CHILD=1\n")
    t("image build -t child -f nginx-proof/child nginx-proof")
    t("run --rm --entrypoint ls child /opt")
    t("run -d --name checked --entrypoint sleep nebul4ck/app:1.0 1000")
    t.soon("container ls --format '{{.Status}}'", r"\(healthy\)", kind="status")
    t.table("container ls")
    t("image build --no-cache -t fresh nginx-proof")
    t("image build --pull=false --rm=false -t kept nginx-proof")
    t("rmi stage")
    t("image ls -aq --filter dangling=true", kind="status")
    t("rmi child fresh kept")


def extending(t):
    """7.5 extending, tagging, publishing"""
    t("image build -t nebul4ck/hello-world-nginx:0.1.0 -f nginx-proof/Dockerfile nginx-proof")
    t("container run -d --name web -p 80:80 --rm nebul4ck/hello-world-nginx:0.1.0")
    t.fetch("http://127.0.0.1/", "<h1>Hello World!</h1>")
    t.fails("container run -p 81:80 --rm nebul4ck/hello-world-nginx:0.1.0 -d", '"-d": executable file not found in $PATH', status=127)
    t("image tag nebul4ck/hello-world-nginx:0.1.0 nebul4ck/hello-world-nginx:stable")
    t.table("image ls nebul4ck/hello-world-nginx")
    t("image tag mysql nebul4ck/mysql:mainimage")
    t("image tag nebul4ck/mysql:mainimage nebul4ck/mysql:1.0.0")
    t("image ls --format '{{.Repository}}:{{.Tag}}' nebul4ck/mysql")
    t.json("image inspect --format '{{json .RepoTags}}' nebul4ck/mysql:1.0.0")
    t.fails("image tag nosuch nebul4ck/x", "No such image")
    t.fails("image tag mysql nebul4ck/X", "must be lowercase", status=None)
    registry = t.registry()
    if not registry:
        return
    image = f"{registry}/nebul4ck/hello-world-nginx"
    t(f"image tag nebul4ck/hello-world-nginx:stable {image}:stable")
    t.fails(f"image push {image}:stable", "no basic auth credentials")
    t.fails(f"login -u {USER} -p wrong {registry}", "unauthorized")
    t(f"login -u {USER} -p {PASSWORD} {registry}")
    t.sees("Login Succeeded")
    with open(os.path.join(t.home, ".docker", "config.json")) as file:
        t.note(".docker/config.json", json.dumps(json.load(file), sort_keys=True))
    t(f"image push {image}:stable")
    t(f"image tag {image}:stable {image}:1.0")
    t(f"image push {image}:1.0")
    t.sees("Layer already exists")
    t.json(f"image inspect {image}:1.0")
    t(f"image push -a {image}", kind="status")
    t.fails(f"image push {registry}/nosuch", "does not exist")
    t(f"image rm {image}:1.0 {image}:stable")
    t(f"image pull {image}:stable", kind="status")
    t.sees("Status: (Downloaded newer image|Image is up to date) for")
    t(f"image pull {image}:stable")
    t.sees("Status: Image is up to date")
    t(f"pull -a {image}", kind="status")
    t.table(f"image ls --digests {image}")
    t.fails(f"pull {registry}/nebul4ck/nosuch", "not found")
    t(f"logout {registry}")
    t.fails(f"pull {image}:1.0", "no basic auth credentials")
    t(f"logout {registry}")


def volumes(t):
    """8.1 volumes"""
    t("container run -d --name mysql -e MYSQL_ALLOW_EMPTY_PASSWORD=True mysql")
    t.json("container inspect --format '{{json .Mounts}}' mysql")
    t.table("volume ls")
    t("container rm -f mysql")
    t("volume ls -q")
    t("container run -d --name mysql -e MYSQL_ALLOW_EMPTY_PASSWORD=True -v mysql-data:/var/lib/mysql mysql")
    t.soon("logs mysql", "ready")
    t.table("volume ls --filter name=mysql-data")
    t.json("volume inspect mysql-data")
    t.json("volume ls --format '{{json .}}' --filter name=mysql-data")
    t.json("container inspect mysql")
    t("container rm -f mysql")
    t("container run -d --name mysql2 -e MYSQL_ALLOW_EMPTY_PASSWORD=True --mount type=volume,source=mysql-data,target=/var/lib/mysql mysql")
    t.soon("exec mysql2 cat /var/lib/mysql/ibdata1", r"a start of mysqld\na start of mysqld")
    t.json("container inspect --format '{{json .Mounts}}' mysql2")
    t.json("container inspect --format '{{json .HostConfig.Mounts}}' mysql2")
    t("volume create --driver local --label of=tutorial --opt type=tmpfs --opt device=tmpfs --opt o=size=1m labelled")
    t.json("volume inspect labelled")
    t.api("/volumes/labelled")
    t.api("/volumes?filters=" + quote('{"label":["of=tutorial"]}'))
    t.api('/volumes?filters={"label":["of=tutorial"]}')
    t.table("volume ls --filter label=of=tutorial")
    t("run --rm -v labelled:/v busybox sh -c 'df /v | tail -1 | awk \"{print \\$2}\"'")
    t("run --rm -v mysql-data:/v:ro busybox touch /v/new", status=1)
    t.sees("Read-only file system")
    t("run --rm --volumes-from mysql2:ro busybox ls /var/lib/mysql")
    t("run --rm --name seeded -v seed:/usr/share/nginx/html nginx cat /usr/share/nginx/html/index.html")
    t("run --rm -v seed:/s busybox cat /s/index.html")
    t.sees("Welcome to nginx!")
    t("run --rm -v empty:/usr/share/nginx/html:nocopy nginx ls /usr/share/nginx/html")
    t.fails("volume create bad/name", "includes invalid characters", status=1)
    t.fails("volume inspect nosuch", "no such volume")
    t.fails("volume rm mysql-data", "volume is in use")


def binds(t):
    """8.2 bind mounts"""
    site = os.path.join(t.place, "nginx-proof")
    t(f"container run -d --name nginx -p 80:80 -v {site}:/usr/share/nginx/html nginx")
    t.fetch("http://127.0.0.1/", "Hello World!")
    with open(os.path.join(site, "index.html"), "w") as file:
        file.write("changed on the host\n")
    t.fetch("http://127.0.0.1/", "changed on the host")
    t("exec nginx sh -c 'echo new > /usr/share/nginx/html/new.html; rm /usr/share/nginx/html/Dockerfile'")
    t.note("files on the host", sorted(os.listdir(site)))
    t.json("inspect --format '{{json .Mounts}}' nginx")
    t.json("inspect --format '{{json .HostConfig.Binds}}' nginx")
    jekyll = os.path.join(t.place, "bindmount-sample-1")
    t(f"container run --name myjekyll -d -p 8080:4000 -v {jekyll}:/site bretfisher/jekyll-serve")
    t.fetch("http://127.0.0.1:8080/_posts/2020-07-21-welcome.md", "first post")
    t(f"run --rm -v {t.place}/made/here:/m busybox touch /m/file")
    t.note("made for -v", os.listdir(os.path.join(t.place, "made", "here")))
    t.fails(f"run --rm --mount type=bind,source={t.place}/nosuch,target=/m busybox true", "bind source path does not exist", status=125)
    t(f"run --rm --mount type=bind,source={jekyll},target=/m,readonly busybox touch /m/x", status=1)
    t(f"run -d --name bound --mount type=bind,source={jekyll},target=/m,readonly busybox sleep 1000")
    t.json("inspect --format '{{json .Mounts}}' bound")
    t.json("inspect --format '{{json .HostConfig}}' bound")
    t("run -d --name scratch --tmpfs /t:size=64k,mode=700 --mount type=tmpfs,target=/u,tmpfs-size=65536,tmpfs-mode=1770 busybox sleep 1000")
    t("exec scratch sh -c 'grep -o \" /[tu] tmpfs .*size=64k\" /proc/mounts | cut -d \" \" -f 2; stat -c %a /t /u'")
    t.json("inspect --format '{{json .Mounts}}' scratch")
    t.json("inspect --format '{{json .HostConfig.Tmpfs}}' scratch")
    t.json("inspect --format '{{json .HostConfig.Mounts}}' scratch")
    t("stop -t 0 scratch")
    t("start scratch")
    t("exec scratch ls /t")
    t.fails("run --mount type=nosuch,target=/m busybox", "nosuch", status=125)
    t.api("/containers/create", "POST", {"Image": "busybox", "HostConfig": {"Mounts": [{"Type": "nosuch", "Target": "/m"}]}})
    t.fails("run --mount type=bind,target=/m busybox", "", status=125)
    t.fails("run -v relative/path:/m busybox", "", status=125)


def layers(t):
    """12 layers and copy up"""
    t("image build -t one nginx-proof")
    t("tag one two")
    t.json("image inspect --format '{{json .RootFS}}' one")
    t("run -d --name aa one")
    t("run -d --name bb one")
    t("exec aa sh -c 'echo only aa > index.html; mkdir /d; rm -r /var/www'")
    t("exec bb cat index.html")
    t.sees("Hello World!")
    t.unordered("diff aa")
    t("diff bb")
    t.table("ps -s")
    t("rm -f aa")
    t("run --rm --name aa one cat index.html")
    t.sees("Hello World!")
    t.table("history one")
    t.table("image ls one")
    t.table("image ls -f dangling=true")
    t.json("inspect --format '{{json .GraphDriver.Name}}' bb")
    t("run -d --name replace --restart unless-stopped busybox sh -c 'sleep 0.2; exit 1'")
    t.soon("inspect --format '{{.RestartCount}}' replace", "[1-9]", kind="status")
    t("rm -f replace")


SECTIONS = [building, stages, extending, volumes, binds, layers]
