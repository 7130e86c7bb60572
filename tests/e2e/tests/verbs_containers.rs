//! Verbs of containers, with docker's client and with ours, on a worker.

use std::fs;

use skep_e2e::pair::names;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const NODE: &str = "n2";
const IMAGE: &str = "busy:1";

#[test]
fn containers_are_dockers_with_either_client() {
    let (Some(_), Some(busybox)) = (needs::docker(), needs::busybox()) else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive(IMAGE, &image::root_file_system(&busybox));
    c.skep_given(NODE, "load", &archive).ok();
    let mut checks = Checks::new();
    checks.check(
        "run prints what the container prints, and ends as it ends",
        || {
            let said = c.each(NODE, "run --rm busy:1 echo a b");
            assert_eq!(said.words(), ["a b", "a b"]);
            for status in [0, 1, 7, 125, 255] {
                c.each_ends_with(
                    status,
                    NODE,
                    &format!("run --rm busy:1 sh -c 'echo out; echo err >&2; exit {status}'"),
                );
            }
            c.each_ends_with(127, NODE, "run --rm busy:1 nosuchprogram");
            c.each_ends_with(126, NODE, "run --rm busy:1 /etc");
            let left = c.same(NODE, "ps -aq");
            assert_eq!(left, "", "--rm removes");
        },
    );
    checks.check("run -i passes its input on, bytes and end alike", || {
        let input: String = (0..20_000)
            .map(|number| format!("line {number}\n"))
            .collect();
        let said = c.each_given(NODE, "run --rm -i busy:1 cat", input.as_bytes());
        assert_eq!(said.skep.out.len(), input.len());
        assert!(said.skep.out == input);
        // Without -i there is nothing to read.
        assert_eq!(
            c.each_given(NODE, "run --rm busy:1 cat", b"x").words(),
            ["", ""]
        );
    });
    checks.check("run gives the container what its flags say", || flags(c));
    checks.check("run -d leaves a container that all lists tell of", || {
        c.each(NODE, "run -d --name @box --label kind=box --stop-timeout 1 busy:1 sleep 1000");
        for line in [
            "ps",
            "ps -q",
            "ps --no-trunc",
            "ps -a --filter label=kind=box --format '{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Labels}}'",
            "ps -n 1",
            "container ls --filter name=of-d",
            "ps --filter status=exited",
            "inspect of-d-box",
            "container inspect of-s-box of-d-box",
            "inspect --type container --format '{{.State.Status}} {{.State.Pid}} {{json .Config.Cmd}}' of-s-box",
            "top of-d-box",
            "port of-d-box",
            "diff of-d-box",
        ] {
            c.same(NODE, line);
        }
        c.alike(NODE, "/containers/@box/json", "/Config");
        c.alike(NODE, "/containers/@box/json", "/HostConfig");
        for name in names("@box") {
            let pid = c.container_pid(NODE, &name).expect("it runs");
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            assert_eq!(line, b"sleep\x001000\x00");
        }
    });
    checks.check("exec has a status, an input, variables, a directory and a user of its own", || {
        c.each_ends_with(5, NODE, "exec @box sh -c 'echo out; echo err >&2; exit 5'");
        let said = c.each_given(NODE, "exec -i @box cat", b"through\n");
        assert_eq!(said.words(), ["through", "through"]);
        let said = c.each(NODE, "exec -e A=1 -e B -w /tmp -u nobody @box sh -c 'echo $A $B; busybox pwd; id -u; echo $MADE'");
        assert_eq!(said.words()[1], "1\n/tmp\n65534\nby-hand");
        c.each(NODE, "exec -d @box sh -c 'echo there > /tmp/detached'");
        for name in names("@box") {
            eventually("a detached command did its work", secs(5), || {
                let ran = c.skep(NODE, &format!("exec {name} cat /tmp/detached"));
                holds(ran.out == "there\n", ran)
            });
        }
        c.same(NODE, "diff of-d-box");
        c.each_ends_with(127, NODE, "exec @box nosuchprogram");
        c.each_ends_with(1, NODE, "exec @nosuch true");
    });
    checks.check(
        "pause, unpause, rename, update and cp do what they say",
        || {
            for (verb, state) in [("pause", "paused"), ("unpause", "running")] {
                c.each(NODE, &format!("{verb} @box"));
                assert_eq!(
                    c.alike(NODE, "/containers/@box/json", "/State/Status"),
                    state
                );
            }
            c.each_ends_with(1, NODE, "unpause @box");
            c.each(NODE, "rename @box @other");
            c.each(NODE, "rename @other @box");
            c.each(
                NODE,
                "update --memory 64m --memory-swap 64m --pids-limit 50 @box",
            );
            c.alike(NODE, "/containers/@box/json", "/HostConfig");
            assert_eq!(
                kernel_limit(c, &names("@box")[1], "memory.max", "memory.limit_in_bytes"),
                "67108864"
            );
            fs::write(c.root.join("carried"), "cargo\n").unwrap();
            c.each(NODE, "cp carried @box:/tmp/carried");
            assert_eq!(
                c.each(NODE, "exec @box cat /tmp/carried").words()[1],
                "cargo"
            );
            c.each(NODE, "cp @box:/tmp/carried back");
            assert_eq!(fs::read_to_string(c.root.join("back")).unwrap(), "cargo\n");
        },
    );
    checks.check("stop, start, restart and kill change the process, and wait tells its end", || {
        let pid = |name: &str| c.container_pid(NODE, name);
        let [dockers, ours] = names("@box");
        let before = [pid(&dockers), pid(&ours)];
        c.each(NODE, "restart -t 0 @box");
        assert!(pid(&ours).is_some() && pid(&ours) != before[1] && pid(&dockers) != before[0]);
        c.each(NODE, "stop -t 0 @box");
        assert_eq!((pid(&dockers), pid(&ours)), (None, None));
        assert_eq!(c.alike(NODE, "/containers/@box/json", "/State/ExitCode"), 137);
        c.same(NODE, "ps -a");
        assert_eq!(c.each(NODE, "wait @box").words(), ["137", "137"]);
        c.each(NODE, "start @box");
        c.each(NODE, "kill -s KILL @box");
        assert_eq!(c.each(NODE, "wait @box").words(), ["137", "137"]);
        c.each_ends_with(1, NODE, "kill @box");
        c.same(NODE, "ps -a --filter exited=137 --format '{{.Names}} {{.Status}}'");
        c.each(NODE, "run -d --name @heeds busy:1 sh -c 'trap \"exit 9\" USR1; while :; do sleep 0.1; done'");
        // The shell is there before it has set its trap; a signal before that is not for it.
        for name in names("@heeds") {
            eventually("a signal reaches the process", secs(10), || {
                // It fails once the process is gone.
                let ran = c.skep(NODE, &format!("kill -s USR1 {name}"));
                holds(pid(&name).is_none(), ran)
            });
        }
        assert_eq!(c.each(NODE, "wait @heeds").words(), ["9", "9"]);
        c.each(NODE, "rm @heeds");
    });
    checks.check("rm removes, and a running container only by force", || {
        c.each(NODE, "start @box");
        c.each_ends_with(1, NODE, "rm @box");
        c.each(NODE, "rm -f @box");
        c.each_ends_with(1, NODE, "rm @box");
        assert_eq!(c.same(NODE, "ps -aq"), "");
        c.each(NODE, "rm -f @box");
    });
    checks.check(
        "create makes what start starts, with its output and status",
        || {
            c.each(
                NODE,
                "create --name @made -i -e WHO=me busy:1 sh -c 'cat; echo $WHO; exit 3'",
            );
            c.same(NODE, "ps -a --format '{{.Names}} {{.Status}}'");
            let pair = c.each_ends(NODE, "start -a -i @made", b"given\n", 3);
            assert_eq!(pair.words(), ["given\nme", "given\nme"]);
            assert_eq!(c.each(NODE, "logs @made").words()[1], "given\nme");
            c.each(NODE, "container rm @made");
            c.each_ends_with(1, NODE, "start @made");
        },
    );
    checks.check(
        "logs are whole, by stream, from the end, and with times",
        || {
            let lines = "echo one; echo two >&2; echo three; printf four";
            c.each(NODE, &format!("run --name @words busy:1 sh -c '{lines}'"));
            for line in [
                "logs of-d-words",
                "logs --tail 2 of-s-words",
                "logs --tail 0 of-s-words",
                "logs -t of-d-words",
                "logs --details of-d-words",
                "logs --since 1h of-d-words",
                "logs --until 1h of-d-words",
                "logs -f of-d-words",
            ] {
                c.same(NODE, line);
            }
            let ran = c.skep(NODE, "logs of-d-words");
            assert_eq!(
                (ran.out.as_str(), ran.err.as_str()),
                ("one\nthree\nfour", "two\n")
            );
            c.each_ends_with(1, NODE, "logs @nosuch");
            c.each(NODE, "rm @words");
        },
    );
    checks.end();
}

/// What flags of `run` make of a container, seen from inside and in the kernel.
fn flags(c: &Cluster) {
    let seen = |line: &str| c.each(NODE, line).words()[1].clone();
    assert_eq!(
        seen("run --rm -e A=x -e B=y busy:1 sh -c 'echo $A$B$MADE'"),
        "xyby-hand"
    );
    assert_eq!(seen("run --rm --hostname there busy:1 hostname"), "there");
    assert_eq!(
        seen("run --rm -u 12:34 -w /tmp busy:1 sh -c 'id -u; id -g; busybox pwd'"),
        "12\n34\n/tmp"
    );
    assert_eq!(seen("run --rm --entrypoint echo busy:1 entered"), "entered");
    assert_eq!(
        seen("run --rm --read-only busy:1 sh -c 'echo x > /x || echo refused'"),
        "refused"
    );
    assert_eq!(
        seen(
            "run --rm --tmpfs /scratch:size=64k busy:1 sh -c 'echo x > /scratch/x && cat /scratch/x'"
        ),
        "x"
    );
    fs::write(c.root.join("mounted"), "of the host\n").unwrap();
    let mounted = c.root.join("mounted");
    assert_eq!(
        seen(&format!(
            "run --rm -v {}:/m:ro busy:1 cat /m",
            mounted.display()
        )),
        "of the host"
    );
    assert_eq!(
        seen("run --rm -v @kept:/v busy:1 sh -c 'echo kept > /v/f'"),
        ""
    );
    assert_eq!(seen("run --rm -v @kept:/v busy:1 cat /v/f"), "kept");
    c.each(NODE, "volume inspect --format '{{.Driver}}' @kept");
    c.each(NODE, "volume rm @kept");
    c.each(
        NODE,
        "run -d --name @limited --memory 32m --cpus 0.5 --pids-limit 20 busy:1 sleep 1000",
    );
    for name in names("@limited") {
        assert_eq!(
            kernel_limit(c, &name, "memory.max", "memory.limit_in_bytes"),
            "33554432"
        );
        assert_eq!(kernel_limit(c, &name, "pids.max", "pids.max"), "20");
    }
    c.each(NODE, "rm -f @limited");
    c.each_ends_with(125, NODE, "run --rm --network nosuch busy:1 true");
    c.each_ends_with(125, NODE, "run --name @x --name -bad busy:1 true");
}

/// A limit as the kernel has it, of cgroups of either version.
#[track_caller]
fn kernel_limit(c: &Cluster, container: &str, file: &str, old_file: &str) -> String {
    let pid = c.container_pid(NODE, container).expect("it runs");
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let controller = file.split('.').next().unwrap_or_default();
    let mut tried = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        let (place, file) = match controllers {
            "" => ("/sys/fs/cgroup".to_owned(), file),
            named if named.split(',').any(|name| name == controller) => {
                (format!("/sys/fs/cgroup/{named}"), old_file)
            }
            _ => return None,
        };
        fs::read_to_string(format!("{place}{group}/{file}")).ok()
    });
    let found = tried
        .next_back()
        .unwrap_or_else(|| panic!("no {file} of {container}: {groups}"));
    found.trim().to_owned()
}
