#!/usr/bin/env bash
# docker-compose 1.29, our own `skep compose`, and the compose plugin where there is one, against one daemon.
set -uo pipefail
cd "$(dirname "$0")"

skip() { echo "skipped: $*"; exit 0; }
command -v python3 >/dev/null || skip "there is no python3"
command -v docker-compose >/dev/null || skip "there is no docker-compose"
[ "$(id -u)" = 0 ] || skip "a daemon needs root"

coproc HOLD { exec python3 harness.py hold; }
input=${HOLD[1]}
read -r host root name <&"${HOLD[0]}" || skip "no daemon"
case $host in unix://*) ;; *) echo "$host $root $name"; exit 0 ;; esac
holder=$HOLD_PID
finish() { exec {input}>&-; wait "$holder" 2>/dev/null; }
trap finish EXIT
trap 'exit 143' TERM INT

skep=${SKEP_BIN:-$(cd ../.. && pwd)/target/debug/skep}
# Of newer versions of the API it does not know that images have lost `ContainerConfig`.
export COMPOSE_API_VERSION=1.44
export DOCKER_HOST=$host COMPOSE_PROJECT_NAME=app COMPOSE_HTTP_TIMEOUT=60 HOME=$root/home NO_COLOR=1
mkdir -p "$HOME" "$root/app/ctx"
cd "$root/app" || exit 1

failed=0 count=0
# check NAME COMMAND...: the command succeeds.
check() {
    local what=$1; shift
    count=$((count + 1))
    if ! said=$(timeout 90 "$@" 2>&1 </dev/null); then
        failed=$((failed + 1))
        printf 'FAIL %s: %s\n%s\n' "$what" "$*" "$said" | head -40
    fi
}
# says NAME PATTERN COMMAND...: the command succeeds and prints the pattern.
says() {
    local what=$1 pattern=$2; shift 2
    count=$((count + 1))
    if ! said=$(timeout 90 "$@" 2>&1 </dev/null) || ! grep -Eq -- "$pattern" <<<"$said"; then
        failed=$((failed + 1))
        printf 'FAIL %s: %s: want %s\n%s\n' "$what" "$*" "$pattern" "$said" | head -40
    fi
}
# soon PATTERN COMMAND...: within ten seconds.
soon() {
    local pattern=$1; shift
    for _ in $(seq 100); do "$@" 2>&1 </dev/null | grep -Eq -- "$pattern" && return 0; sleep 0.1; done
    return 1
}
inside() { nsenter --net="/run/netns/$name" "$@"; }
fetch() { inside busybox nc -w 2 127.0.0.1 "$1" </dev/null; }

cat >docker-compose.yml <<'YML'
version: "2.4"
services:
  web:
    image: busybox
    command: ["sh", "-c", "echo web is up as $$WHO; while :; do cat /data/page | nc -l -p 80; done"]
    environment:
      WHO: ${WHO:-nobody}
    ports:
      - "18100:80"
    volumes:
      - data:/data
    networks:
      front:
        aliases: [site]
      back: {}
    depends_on:
      db:
        condition: service_healthy
    labels:
      of: web
    stop_grace_period: 1s
    mem_limit: 64m
  db:
    image: busybox
    command: ["sh", "-c", "echo page of db > /data/page; echo db is up; sleep 1000"]
    volumes:
      - data:/data
    networks: [back]
    healthcheck:
      test: ["CMD", "test", "-f", "/data/page"]
      interval: 200ms
      timeout: 5s
      retries: 20
    stop_grace_period: 1s
    tmpfs: /scratch
    ulimits:
      nofile: {soft: 100, hard: 200}
    extra_hosts: ["other:192.0.2.5"]
networks:
  front: {}
  back:
    driver: bridge
    ipam:
      config:
        - subnet: 10.61.0.0/24
volumes:
  data:
    labels:
      of: app
YML
cat >docker-compose.override.yml <<'YML'
version: "2.4"
services:
  web:
    labels:
      more: override
YML

suite() {
    local tool=("$@") one=app_web_1 sep=_
    says "config" 'of: web' "${tool[@]}" config
    check "up -d" env WHO=me "${tool[@]}" up -d
    docker inspect app_web_1 >/dev/null 2>&1 || { one=app-web-1; sep=-; }
    says "the override counts" '^override$' docker inspect -f '{{index .Config.Labels "more"}}' "$one"
    says "ps" 'web.*(Up|running)' "${tool[@]}" ps
    says "a published port" '18100' "${tool[@]}" port web 80
    says "the page of the shared volume" 'page of db' fetch 18100
    says "logs" 'web is up as me' "${tool[@]}" logs --tail 5 web
    says "top" 'sleep 1000' "${tool[@]}" top db
    says "exec" '^me$' "${tool[@]}" exec -T web sh -c 'echo $WHO'
    says "names on the network" '10\.61\.0\.' "${tool[@]}" exec -T web sh -c 'ping -4 -c1 -W2 db'
    says "limits" '^100$' "${tool[@]}" exec -T db sh -c 'ulimit -n'
    says "extra hosts" '192.0.2.5' "${tool[@]}" exec -T db cat /etc/hosts
    says "an alias" '64 bytes from' "${tool[@]}" exec -T web ping -4 -c1 -W2 site
    says "run" 'ran it' "${tool[@]}" run --rm -T --no-deps web echo ran it
    check "a second up changes nothing" env WHO=me "${tool[@]}" up -d
    check "a changed environment makes anew" env WHO=you "${tool[@]}" up -d
    says "the new one" 'you' "${tool[@]}" exec -T web sh -c 'echo $WHO'
    check "pause" "${tool[@]}" pause db
    check "unpause" "${tool[@]}" unpause db
    check "stop" "${tool[@]}" stop
    says "it has stopped" '^exited$' docker inspect -f '{{.State.Status}}' "$one"
    check "start" "${tool[@]}" start
    check "it has started" soon '^running$' docker inspect -f '{{.State.Status}}' "$one"
    check "restart" "${tool[@]}" restart -t 0 db
    check "kill" "${tool[@]}" kill -s KILL db
    check "up again" env WHO=you "${tool[@]}" up -d
    check "scale" env WHO=you "${tool[@]}" up -d --scale db=3
    says "three of them" '^3$' sh -c 'docker ps -q --filter label=com.docker.compose.service=db | wc -l'
    says "a round of names" "${sep}3|64 bytes" "${tool[@]}" exec -T web ping -4 -c1 -W2 "app${sep}db${sep}3"
    says "images" 'busybox' "${tool[@]}" images
    check "rm" env WHO=you "${tool[@]}" rm -sf web
    check "down -v --rmi local" "${tool[@]}" down -v --rmi local -t 0
    says "nothing of it is left" '^0 0 0$' sh -c 'echo $(docker ps -aq | wc -l) $(docker volume ls -q | wc -l) $(docker network ls -q --filter type=custom | wc -l)'
}
export -f fetch inside
export name
# Functions are not programs: timeout runs them through a shell.
timeout() { local seconds=$1; shift; if declare -F "$1" >/dev/null; then "$@"; else command timeout "$seconds" "$@"; fi; }

suite docker-compose
suite "$skep" compose
if docker compose version >/dev/null 2>&1; then
    suite docker compose
else
    echo "skipped: there is no compose plugin"
fi

# An attached up ends with its container.
cat >once.yml <<'YML'
version: "2.4"
services:
  once:
    image: busybox
    command: sh -c "echo once and no more; exit 3"
YML
once() {
    count=$((count + 1))
    said=$(command timeout 60 "$@" -f once.yml up --exit-code-from once 2>&1 </dev/null)
    status=$?
    if [ $status != 3 ] || ! grep -q 'once and no more' <<<"$said"; then
        failed=$((failed + 1))
        printf 'FAIL %s up --exit-code-from: status %s\n%s\n' "$*" $status "$said"
    fi
    check "down of it" "$@" -f once.yml down
}
once docker-compose
once "$skep" compose

# Building needs `POST /build`.
cat >ctx/Dockerfile <<'D'
FROM busybox
ARG WORD=none
ENV WORD=$WORD
COPY file /file
RUN echo built > /made
CMD cat /file /made && echo $WORD
D
echo "of the context" >ctx/file
cat >build.yml <<'YML'
version: "2.4"
services:
  made:
    build:
      context: ctx
      args:
        WORD: given
    image: app_made
YML
made() {
    check "build" "$@" -f build.yml build
    says "what was built runs" 'of the context.*|given' "$@" -f build.yml run --rm -T made
    check "up --build" "$@" -f build.yml up -d --build
    check "down --rmi all" "$@" -f build.yml down --rmi all -t 0
}
if curl -s -o /dev/null -w '%{http_code}' --unix-socket "${host#unix://}" -X POST "http://x/build?dockerfile=x" -H 'Content-Type: application/x-tar' --data-binary '' | grep -q 501; then
    echo "skipped: this daemon does not build"
else
    made docker-compose
    made "$skep" compose
fi

echo "$count checks, $failed failed"
[ $failed = 0 ]
