//! Plain containers on attachable networks of the cluster, from managers and from workers.

use serde_json::Value;
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, eventually, image, needs, secs};

const IMAGE: &str = "busy:1";

#[test]
fn plain_containers_join_attachable_networks() {
    let (Some(_), Some(busybox)) = (needs::docker(), needs::busybox()) else {
        return;
    };
    let Some(cluster) = Cluster::up(3, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive(IMAGE, &image::root_file_system(&busybox));
    for node in ["n1", "n2", "n3"] {
        c.skep_given(node, "load", &archive).ok();
    }
    c.docker(
        "n1",
        "network create -d overlay --attachable --subnet 10.66.0.0/24 net",
    )
    .ok();
    c.docker("n1", "network create -d overlay closed").ok();
    c.skep(
        "n1",
        "service create -d --no-resolve-image --name web --replicas 2 --network net skep/hello:latest",
    )
    .ok();
    c.wait_running("n1", "web", 2, secs(30));
    let mut checks = Checks::new();
    checks.check(
        "a container on a worker reaches services by name and address",
        || {
            let said = c.docker(
                "n3",
                "run --rm --network net busy:1 wget -qO- http://web:8080/",
            );
            let page = said.ok();
            assert!(page.contains("hostname"), "{page}");
            let vip = &c.get("n1", "/services/web")["Endpoint"]["VirtualIPs"][0]["Addr"];
            let vip = vip.as_str().unwrap().split('/').next().unwrap().to_owned();
            c.docker(
                "n2",
                &format!("run --rm --network net busy:1 wget -qO- http://{vip}:8080/"),
            )
            .ok();
        },
    );
    checks.check("containers on different nodes find each other by every name", || {
        c.docker("n2", "run -d --name db --hostname database --network net --network-alias store --ip 10.66.0.77 busy:1 sleep 1000").ok();
        let id = c.docker("n2", "inspect -f {{.Id}} db").ok().trim().to_owned();
        for name in ["db", "database", "store", &id[..12], "10.66.0.77"] {
            c.docker("n3", &format!("run --rm --network net busy:1 busybox ping -c 3 -i 0.3 -W 2 {name}")).ok();
        }
        let shown = c.docker("n2", "inspect -f '{{json .NetworkSettings.Networks.net}}' db");
        let shown: Value = serde_json::from_str(&shown.ok()).unwrap();
        assert_eq!(shown["IPAddress"], "10.66.0.77");
        assert_eq!(shown["MacAddress"], "02:42:0a:42:00:4d");
        assert_eq!(shown["IPPrefixLen"], 24);
    });
    checks.check(
        "lists and inspect know the network and who is on it, on workers too",
        || {
            for node in ["n1", "n2"] {
                let listed = c.docker(
                    node,
                    "network ls --format '{{.Name}} {{.Driver}} {{.Scope}}'",
                );
                let listed = listed.ok();
                assert!(
                    listed.lines().any(|line| line == "net overlay swarm"),
                    "{listed}"
                );
            }
            let shown = c.docker("n2", "network inspect net");
            let shown: Value = serde_json::from_str(&shown.ok()).unwrap();
            let containers = shown[0]["Containers"].as_object().unwrap();
            let here = containers.values().find(|one| one["Name"] == "db").unwrap();
            assert_eq!(here["IPv4Address"], "10.66.0.77/24");
        },
    );
    checks.check(
        "published ports and the way out work from such a container",
        || {
            c.docker(
                "n2",
                "run -d --name page --network net -p 9090:8080 skep/hello:latest",
            )
            .ok();
            eventually("the port answers", secs(5), || c.page("n2", 9090, "/"));
            let port = c.docker("n2", "port page").ok();
            assert!(port.contains("8080/tcp -> 0.0.0.0:9090"), "{port}");
            let gateway = c.gateway();
            c.docker(
                "n2",
                &format!("run --rm --network net busy:1 busybox ping -c 3 -i 0.3 -W 2 {gateway}"),
            )
            .ok();
            c.docker("n2", "rm -f page").ok();
        },
    );
    checks.check("a running container joins and leaves by hand", || {
        c.docker("n3", "run -d --name late busy:1 sleep 1000").ok();
        c.docker("n3", "network connect --alias tardy net late")
            .ok();
        c.docker("n2", "exec db busybox ping -c 3 -i 0.3 -W 2 tardy")
            .ok();
        c.docker("n3", "exec late busybox ping -c 3 -i 0.3 -W 2 db")
            .ok();
        c.docker("n3", "network disconnect net late").ok();
        eventually("its name is gone", secs(5), || {
            let said = c.docker("n2", "exec db busybox ping -c 1 -W 1 tardy");
            holds(said.status != 0, said.out)
        });
        c.docker("n3", "rm -f late").ok();
    });
    checks.check("a restart of the daemon leaves them as they are", || {
        c.docker("n3", "run -d --name peer --network net busy:1 sleep 1000")
            .ok();
        c.docker("n3", "exec peer busybox ping -c 3 -i 0.3 -W 2 db")
            .ok();
        c.kill("n2");
        c.docker("n3", "exec peer busybox ping -c 3 -i 0.3 -W 2 10.66.0.77")
            .ok();
        c.start("n2");
        eventually("its name answers", secs(15), || {
            let said = c.docker(
                "n3",
                "run --rm --network net busy:1 busybox ping -c 3 -i 0.3 -W 2 db",
            );
            holds(said.status == 0, said.out)
        });
        c.docker("n3", "rm -f peer").ok();
        let places = c.docker("n2", "exec db busybox ip -4 addr show eth0");
        assert!(places.ok().contains("10.66.0.77/24"));
    });
    checks.check(
        "one that ended with its daemon is started again once there is a cluster",
        || {
            c.docker("n2", "update --restart always db").ok();
            let pid = c.container_pid("n2", "db").expect("it runs");
            c.kill("n2");
            c.end_process(pid);
            c.start("n2");
            eventually("it answers under its address", secs(15), || {
                let said = c.docker(
                    "n3",
                    "run --rm --network net busy:1 busybox ping -c 3 -i 0.3 -W 2 10.66.0.77",
                );
                holds(said.status == 0, said.out)
            });
            assert_ne!(c.container_pid("n2", "db"), Some(pid));
        },
    );
    checks.check("wrong wishes are refused by name", || {
        c.docker("n1", "run --rm --network closed busy:1 true")
            .fails("network closed not manually attachable");
        c.docker("n3", "run --rm --network closed busy:1 true")
            .fails("network closed not manually attachable");
        c.docker("n3", "run --rm --network nowhere busy:1 true")
            .fails("network nowhere not found");
        c.docker("n3", "run --rm --network net --ip 10.66.0.77 busy:1 true")
            .fails("Address already in use");
        c.docker("n3", "run --rm --network net --ip 10.67.0.7 busy:1 true")
            .fails("no configured subnet contains IP address 10.67.0.7");
        c.docker("n1", "network rm net").fails("is in use");
    });
    checks.check(
        "an address is free again once its container is gone",
        || {
            c.docker("n2", "rm -f db").ok();
            c.docker("n3", "run --rm --network net --ip 10.66.0.77 busy:1 true")
                .ok();
            c.docker("n3", "run --rm --network net --ip 10.66.0.77 busy:1 true")
                .ok();
            c.skep("n1", "service rm web").ok();
            eventually("the network can be removed", secs(20), || {
                let said = c.docker("n1", "network rm net");
                holds(said.status == 0, said.err)
            });
        },
    );
    checks.end();
}
