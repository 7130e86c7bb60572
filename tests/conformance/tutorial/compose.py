"""Chapter 13: docker-compose 1.29 with the tutorial's files, and `skep compose` with the same ones."""

import os


def inside(directory):
    return f"--project-directory {directory} -f {directory}/docker-compose.yml"


def jekyll(t):
    """13.1 one service with a bind mount"""
    c = inside("jekyll")
    t.compose(f"{c} up -d", kind="unordered")
    t.fetch("http://127.0.0.1/", "a site of compose")
    with open(os.path.join(t.place, "jekyll", "index.html"), "w") as file:
        file.write("changed\n")
    t.fetch("http://127.0.0.1/", "changed")
    t.compose(f"{c} ps")
    t.table("ps")
    t.json(f"inspect {t.of_project('jekyll', 'jekyll', '1')}")
    t.compose(f"{c} down", kind="unordered")
    t.table("ps -a")


def wordpress(t):
    """13.1 wordpress with its database"""
    c = inside("wordpress")
    t.compose(f"{c} up -d", kind="status")
    t.fetch("http://127.0.0.1:8080/cgi-bin/site", "example asks mysql wordpress")
    t.compose(f"{c} ps")
    t.table("ps --format 'table {{.Names}}\t{{.Image}}\t{{.Command}}\t{{.Ports}}'", kind="unordered")
    t.compose(f"{c} logs --tail 1 mysql", kind="unordered")
    t.sees("ready for connections")
    t.compose(f"{c} top", kind="status")
    t.sees("apache2|httpd")
    t.compose(f"{c} exec -T mysql cat /var/lib/mysql/ibdata1")
    t.unordered("volume ls")
    t.table("network ls")
    t.json("network inspect wordpress_default")
    t.json("volume inspect wordpress_mysql-data")
    t.json(f"inspect {t.of_project('wordpress', 'mysql', '1')}")
    t.compose(f"{c} stop", kind="status")
    t.compose(f"{c} ps")
    t.compose(f"{c} start", kind="status")
    t.fetch("http://127.0.0.1:8080/cgi-bin/site", "example asks mysql wordpress")
    t.compose(f"{c} exec -T mysql cat /var/lib/mysql/ibdata1")
    t.compose(f"{c} up -d", kind="unordered")
    t.compose(f"{c} down -v", kind="unordered")
    t.unordered("volume ls")
    t.table("network ls")
    t.note("what the bind mount has left", sorted(os.listdir(os.path.join(t.place, "wordpress", "wordpress-data"))))


def ghost(t):
    """13.1 what depends on what"""
    c = inside("ghost")
    t.compose(f"{c} up -d", kind="unordered")
    t.compose(f"{c} ps")
    t.fetch("http://127.0.0.1/config.js", "config")
    t.compose(f"{c} exec -T ghost sh -c 'nc -w 2 mysql-primary 3306 < /dev/null; cat /var/lib/ghost/config.js; env | grep -c MYSQL'")
    t.compose(f"{c} down --rmi all -v", kind="unordered")
    t("image ls -q ghost")
    t.sees(r"\A\Z")


def proxy(t):
    """13.2 a file that builds"""
    c = inside("proxy")
    image = t.of_project("proxy", "proxy")
    t.compose(f"{c} up -d --build")
    t.fetch("http://127.0.0.1/cgi-bin/proxy", "the page behind the proxy")
    t.table(f"image ls {image}")
    t.json(f"image inspect {image}")
    t.compose(f"{c} up -d --force-recreate", kind="unordered")
    t.compose(f"{c} down --rmi local -v", kind="unordered")
    t(f"image ls -q {image}")


def environments(t):
    """13.3 files for more than one environment"""
    c = "--project-directory environments -f environments/docker-compose.yml"
    over, prod = f"{c} -f environments/docker-compose.override.yml", f"{c} -f environments/docker-compose.prod.yml"
    t.compose(f"{over} up -d", kind="unordered")
    t.compose_soon(f"{over} ps", r"\(healthy\)")
    t.compose(f"{over} exec -T drupal sh -c 'echo $CUSTOM; cat /var/www/html/themes/info'")
    t.unordered("volume ls")
    t.compose(f"{over} up -d --scale postgres=2", kind="status")
    t.unordered("ps --format '{{.Names}} {{.Image}}'")
    t.compose(f"{over} down", kind="status")
    t.compose(f"{prod} up -d", kind="unordered")
    t.json(f"inspect {t.of_project('environments', 'drupal', '1')}")
    t.json("network inspect environments_default")
    t.compose(f"{prod} down -v", kind="unordered")


SECTIONS = [jekyll, wordpress, ghost, proxy, environments]
