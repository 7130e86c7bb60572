"""The tutorial's images, made without a registry: one root file system with busybox and small stand-ins for the
programs the tutorial runs, and per image what its Dockerfile would say."""

import io
import json
import tarfile
import urllib.parse

import harness

MORE_PROGRAMS = "httpd awk find hostid touch nproc ifconfig route which uname sha256sum tee xargs sort uniq rmdir mkfifo cp mv du usleep".split()



def serving(word, server):
    """A script that says a word and serves until it is asked to end: nothing else ends the first process of a container."""
    return f"{word}\ntrap 'exit 0' TERM INT QUIT WINCH\n{server} &\nwait"


SCRIPTS = {
    "bin/bash": 'exec sh "$@"',
    "bin/curl": 'for last; do :; done\nexec wget -q -O - "$last"',
    "usr/bin/nginx": serving("echo nginx is ready", "httpd -f -p 80 -h /usr/share/nginx/html"),
    "usr/bin/httpd-foreground": serving("echo httpd is ready", "httpd -f -p 80 -h /usr/local/apache2/htdocs"),
    "usr/bin/docker-entrypoint.sh": """\
if [ -z "$MYSQL_ROOT_PASSWORD$MYSQL_ALLOW_EMPTY_PASSWORD$MYSQL_RANDOM_ROOT_PASSWORD" ]; then
    echo >&2 'error: database is uninitialized and password option is not specified'
    exit 1
fi
[ -z "$MYSQL_RANDOM_ROOT_PASSWORD" ] || echo "GENERATED ROOT PASSWORD: $(hostname | md5sum | cut -c 1-8)"
exec "$@\"""",
    "usr/bin/mysqld": serving('echo "a start of mysqld" >> /var/lib/mysql/ibdata1\necho mysqld: ready for connections', "nc -ll -p 3306 -e mysql-greeting"),
    "usr/bin/mysql-greeting": 'echo "mysql $MYSQL_DATABASE"',
    "usr/bin/apache2-foreground": serving(
        """\
mkdir -p /var/www/html/cgi-bin
cat > /var/www/html/cgi-bin/site << 'EOF'
#!/bin/sh
printf 'Content-type: text/plain\\n\\n'
echo "$WORDPRESS_DB_USER asks $(nc -w 2 $WORDPRESS_DB_HOST 3306 < /dev/null)"
EOF
chmod +x /var/www/html/cgi-bin/site
echo wordpress is ready""",
        "httpd -f -p 80 -h /var/www/html",
    ),
    "usr/bin/postgres-entrypoint.sh": """\
[ -z "$POSTGRES_USER_FILE" ] || POSTGRES_USER=$(cat "$POSTGRES_USER_FILE")
[ -z "$POSTGRES_PASSWORD_FILE" ] || POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
if [ -z "$POSTGRES_PASSWORD" ]; then
    echo >&2 'Error: Database is uninitialized and superuser password is not specified.'
    exit 1
fi
export POSTGRES_USER=${POSTGRES_USER:-postgres} POSTGRES_PASSWORD
exec "$@\"""",
    "usr/bin/postgres": serving('echo "a start of postgres" >> /var/lib/postgresql/data/log\necho postgres: ready for "$POSTGRES_USER $(echo $POSTGRES_PASSWORD | md5sum | cut -c 1-8)"', "nc -ll -p 5432 -e postgres-greeting"),
    "usr/bin/postgres-greeting": 'echo "postgres of $POSTGRES_USER"',
    "usr/bin/drupal": serving(
        """\
mkdir -p /var/www/html/cgi-bin
cat > /var/www/html/cgi-bin/site << 'EOF'
#!/bin/sh
printf 'Content-type: text/plain\\n\\n'
echo "$(hostname) $DRUPAL_VERSION in ${NODE_ENV:-development} asks $(nc -w 2 psql 5432 < /dev/null)"
EOF
chmod +x /var/www/html/cgi-bin/site
echo drupal is ready""",
        "httpd -f -p 80 -h /var/www/html",
    ),
    "usr/bin/elasticsearch": serving("""mkdir -p /srv && printf '{"name": "%s"}\\n' $(hostname) > /srv/index.html""", "httpd -f -p 9200 -h /srv"),
    "usr/bin/jekyll": serving("echo the server is running", "httpd -f -p 4000 -h /site"),
    "usr/bin/ghost": serving('echo "ghost with $MYSQL_HOST"', "httpd -f -p 2368 -h /var/lib/ghost"),
    "usr/bin/idle": serving("echo nothing is done", "sleep 1000"),
}

FILES = {
    "usr/share/nginx/html/index.html": "Welcome to nginx!\n",
    "usr/local/apache2/htdocs/index.html": "It works!\n",
}

POSTGRES = ['ENTRYPOINT ["postgres-entrypoint.sh"]', 'CMD ["postgres"]', "VOLUME /var/lib/postgresql/data", "EXPOSE 5432"]
DATABASE = ['ENTRYPOINT ["docker-entrypoint.sh"]', 'CMD ["mysqld"]', "VOLUME /var/lib/mysql", "EXPOSE 3306"]

# What each image's Dockerfile says beside its files.
IMAGES = {
    "busybox:latest": ['CMD ["sh"]'],
    "ubuntu:latest": ['CMD ["/bin/bash"]'],
    "ubuntu:16.04": ['CMD ["/bin/bash"]'],
    "debian:stretch-slim": ['CMD ["bash"]'],
    "alpine:latest": ['CMD ["/bin/sh"]'],
    "centos:latest": ['CMD ["/bin/bash"]'],
    "nginx:latest": ["ENV NGINX_VERSION 1.13.6", "EXPOSE 80", 'CMD ["nginx", "-g", "daemon off;"]'],
    "httpd:latest": ["EXPOSE 80", "WORKDIR /usr/local/apache2", 'CMD ["httpd-foreground"]'],
    "apache:latest": ["EXPOSE 80", 'CMD ["httpd-foreground"]'],
    "mysql:latest": DATABASE,
    "mariadb:latest": DATABASE,
    "wordpress:latest": ["EXPOSE 80", "VOLUME /var/www/html", 'CMD ["apache2-foreground"]'],
    "postgres:latest": POSTGRES,
    "postgres:9.4": POSTGRES,
    "drupal:latest": ["EXPOSE 80", "ENV DRUPAL_VERSION 8.1", 'CMD ["drupal"]'],
    "drupal:8.2": ["EXPOSE 80", "ENV DRUPAL_VERSION 8.2", 'CMD ["drupal"]'],
    "elasticsearch:2": ["EXPOSE 9200 9300", 'CMD ["elasticsearch"]'],
    "bretfisher/jekyll-serve:latest": ["EXPOSE 4000", "WORKDIR /site", 'CMD ["jekyll"]'],
    "ghost:latest": ["EXPOSE 2368", 'CMD ["ghost"]', "ENV NODE_ENV production"],
    "percona/proxysql:latest": ["EXPOSE 6032", 'CMD ["idle"]'],
    "percona/percona-xtradb-cluster:5.7": DATABASE,
}
# Ours, with no shell in it: what the tutorial calls hello-world.
HELLO = "skep/hello:latest"
NAMES = [*IMAGES, "hello-world:latest"]


def root_file_system():
    out = io.BytesIO(harness.root_file_system())
    with tarfile.open(fileobj=out, mode="a", format=tarfile.GNU_FORMAT) as archive:

        def add(name, kind=tarfile.REGTYPE, data=b"", mode=0o644, link=""):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode, info.linkname, info.mtime = kind, len(data), mode, link, 1767225600
            archive.addfile(info, io.BytesIO(data))

        for name in ("usr", "usr/bin", "usr/share", "usr/share/nginx", "usr/share/nginx/html", "usr/local", "usr/local/apache2", "usr/local/apache2/htdocs", "var/lib", "var/lib/mysql", "var/lib/ghost", "var/lib/postgresql", "var/lib/postgresql/data", "var/www", "var/www/html"):
            add(name, tarfile.DIRTYPE, mode=0o755)
        for name in MORE_PROGRAMS:
            if name not in harness.PROGRAMS:
                add(f"bin/{name}", tarfile.SYMTYPE, link="busybox", mode=0o777)
        for name, text in SCRIPTS.items():
            add(name, data=f"#!/bin/sh\n{text}\n".encode(), mode=0o755)
        for name, text in FILES.items():
            add(name, data=text.encode())
    return out.getvalue()


def make(socket, archive, hello):
    """Makes the images that one daemon lacks; `hello` is the archive of ours."""
    present = {name for image in harness.call(socket, "GET", "/images/json").json() for name in image["RepoTags"] or ()}
    for name, changes in IMAGES.items():
        if name in present:
            continue
        repository, _, tag = name.rpartition(":")
        query = urllib.parse.urlencode([("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", line) for line in changes)])
        answer = harness.call(socket, "POST", f"/images/create?{query}", archive, {"Content-Type": "application/x-tar"})
        if answer.status != 200 or b"error" in answer.body:
            raise RuntimeError(f"no image {name}: {answer.status} {answer.body[:300]}")
    if "hello-world:latest" in present:
        return
    answer = harness.call(socket, "POST", "/images/load?quiet=1", hello, {"Content-Type": "application/x-tar"})
    assert answer.status == 200, answer.body
    answer = harness.call(socket, "POST", f"/images/{HELLO}/tag?repo=hello-world&tag=latest")
    assert answer.status == 201, answer.body
    answer = harness.call(socket, "DELETE", f"/images/{HELLO}")
    assert answer.status == 200, answer.body


def only_these(socket):
    """Leaves a cluster, and removes every container, volume, network and image but the tutorial's."""

    def ask(method, path, *statuses):
        answer = harness.call(socket, method, path)
        if answer.status not in (200, 204, 404, *statuses):
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.body[:300]}")
        return answer.json() if answer.status == 200 and answer.body else None

    # Its services and their networks go with a cluster.
    ask("POST", "/swarm/leave?force=1", 503)
    for container in ask("GET", "/containers/json?all=1"):
        ask("DELETE", f"/containers/{container['Id']}?force=1&v=1", 409)
    for network in ask("GET", "/networks"):
        if network["Name"] not in ("bridge", "host", "none"):
            ask("DELETE", f"/networks/{network['Id']}")
    for volume in ask("GET", "/volumes")["Volumes"] or ():
        ask("DELETE", f"/volumes/{volume['Name']}?force=1")
    for _ in range(2):
        for image in ask("GET", "/images/json"):
            names = [name for name in (image["RepoTags"] or []) if name != "<none>:<none>"]
            # What a cluster or a registry knows by its digest is told with the image, so it is made anew.
            known = any(name != "<none>@<none>" for name in image["RepoDigests"] or ())
            for name in [name for name in names if known or name not in NAMES] or ([image["Id"]] if not names else []):
                ask("DELETE", f"/images/{name}?force=1", 409)
    ask("POST", "/images/prune?filters=" + urllib.parse.quote(json.dumps({"dangling": ["true"]})))
