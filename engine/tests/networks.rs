//! Networks of one host, in a network namespace of the test's own.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use common::*;
use skep_engine::types::{
    ContainerConfig, EndpointIpam, EndpointSettings, Ipam, IpamConfig, NetworkCreate, PortBinding,
};
use skep_engine::{Engine, Filters, Kind, RemoveOptions};

fn on(network: &str, script: &str) -> ContainerConfig {
    with_host(shell(script), |host| host.network_mode = network.into())
}

/// A web server that answers with this text on port 80.
fn server(network: &str, text: &str) -> ContainerConfig {
    let mut config = on(
        network,
        &format!("mkdir /www; echo {text} > /www/index.html; exec httpd -f -p 80 -h /www"),
    );
    config.exposed_ports = [("80/tcp".to_owned(), Default::default())].into();
    config
}

/// What a web server at this address answers, tried until it does.
async fn fetch(address: &str) -> String {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        let answer = TcpStream::connect(address).and_then(|mut stream| {
            stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        });
        match answer {
            Ok(text) if text.contains("200 OK") => return text.lines().last().unwrap().to_owned(),
            other => assert!(std::time::Instant::now() < deadline, "{address}: {other:?}"),
        }
        tokio::task::yield_now().await;
    }
}

async fn network(engine: &Engine, name: &str) -> String {
    let request = NetworkCreate {
        name: name.into(),
        ..NetworkCreate::default()
    };
    engine.network_create(request).await.unwrap().0
}

async fn endpoint(engine: &Engine, container: &str, network: &str) -> EndpointSettings {
    engine
        .container_inspect(container, false)
        .await
        .unwrap()
        .network_settings
        .networks[network]
        .clone()
}

#[test]
fn the_default_bridge_has_its_subnet_from_the_start() {
    in_own_network(async |mut bench| {
        let check = async |bench: &Bench, subnet: &str, gateway: &str| {
            let bridge = bench.engine().network_inspect("bridge").await.unwrap();
            let [range] = &bridge.ipam.config[..] else {
                panic!("{:?}", bridge.ipam);
            };
            assert_eq!((&range.subnet[..], &range.gateway[..]), (subnet, gateway));
            // Nothing is on it, so it is not made.
            assert!(!ip("link show docker0"));
        };
        check(&bench, "172.17.0.0/16", "172.17.0.1").await;
        network(bench.engine(), "own").await;
        let own = bench.engine().network_inspect("own").await.unwrap();
        // The one between is that of the cluster's gateway bridge.
        assert_eq!(own.ipam.config[0].subnet, "172.19.0.0/16");
        bench.close().await;
        bench.open().await;
        check(&bench, "172.17.0.0/16", "172.17.0.1").await;
        // Another program took it before the first container came.
        bench.close().await;
        assert!(ip("route add 172.17.0.0/16 dev lo"));
        bench.open().await;
        check(&bench, "172.20.0.0/16", "172.20.0.1").await;
        bench.close().await;
        let mut config = bench.config();
        config.bridge_address = Some("10.9.0.5/24".parse().unwrap());
        bench.open_with(config).await;
        check(&bench, "10.9.0.0/24", "10.9.0.5").await;
        run(bench.engine(), "one", on("bridge", "sleep 100")).await;
        assert!(ip("link show docker0"));
        let one = endpoint(bench.engine(), "one", "bridge").await;
        assert_eq!(
            (&one.gateway[..], &one.ip_address[..]),
            ("10.9.0.5", "10.9.0.1")
        );
        // A live container keeps its bridge as it is.
        bench.close().await;
        bench.open().await;
        assert_eq!(endpoint(bench.engine(), "one", "bridge").await, one);
        bench.engine().network_remove("own").await.unwrap();
        bench.finish().await;
    });
}

/// Whether `ip` could do this here.
fn ip(words: &str) -> bool {
    let mut command = std::process::Command::new("/bin/busybox");
    command.arg("ip").args(words.split(' '));
    command.output().unwrap().status.success()
}

#[test]
fn the_default_bridge_publishes_ports() {
    in_own_network(async |mut bench| {
        let engine = bench.engine().clone();
        let mut bindings = vec![PortBinding {
            host_ip: "127.0.0.1".into(),
            host_port: "18080".into(),
        }];
        bindings.push(PortBinding::default());
        let config = with_host(server("default", "published"), |host| {
            host.port_bindings = [("80/tcp".to_owned(), Some(bindings))].into();
        });
        run(&engine, "web", config).await;
        let found = engine.container_inspect("web", false).await.unwrap();
        assert_eq!(found.network_settings.ip_address, "172.17.0.2");
        assert_eq!(found.network_settings.gateway, "172.17.0.1");
        let ports = found.network_settings.ports["80/tcp"].clone().unwrap();
        assert_eq!(
            (ports[0].host_ip.as_str(), ports[0].host_port.as_str()),
            ("127.0.0.1", "18080")
        );
        assert!(ports.len() >= 2, "{ports:?}");
        for address in [
            "127.0.0.1:18080",
            "172.17.0.2:80",
            &format!("127.0.0.1:{}", ports[1].host_port),
        ] {
            assert_eq!(fetch(address).await, "published", "{address}");
        }
        let clash = with_host(server("default", "second"), |host| {
            host.port_bindings = [(
                "80/tcp".to_owned(),
                Some(vec![PortBinding {
                    host_ip: "127.0.0.1".into(),
                    host_port: "18080".into(),
                }]),
            )]
            .into();
        });
        create(&engine, "clash", clash).await;
        let error = start(&engine, "clash").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("Bind for 127.0.0.1:18080 failed: port is already allocated"),
            "{error}"
        );
        let names: Vec<String> = engine
            .container_list(Default::default())
            .await
            .unwrap()
            .iter()
            .map(|c| c.names[0].clone())
            .collect();
        assert_eq!(names, ["/web"]);

        // Everything is there when the engine comes back.
        let before = engine.container_inspect("web", false).await.unwrap();
        drop(engine);
        bench.close().await;
        assert_eq!(
            fetch("127.0.0.1:18080").await,
            "published",
            "while the engine is away"
        );
        bench.open().await;
        let engine = bench.engine().clone();
        let after = engine.container_inspect("web", false).await.unwrap();
        assert_eq!(after.network_settings, before.network_settings);
        assert_eq!(fetch("127.0.0.1:18080").await, "published");
        let stats = engine.container_stats("web", true).await.unwrap();
        assert!(stats.networks["eth0"].rx_bytes > 0);
        start(&engine, "clash").await.unwrap_err();
        engine
            .container_remove(
                "web",
                RemoveOptions {
                    force: true,
                    volumes: false,
                },
            )
            .await
            .unwrap();
        start(&engine, "clash").await.unwrap();
        assert_eq!(fetch("127.0.0.1:18080").await, "second");
        drop(engine);
        bench.finish().await;
    });
}

#[test]
fn containers_find_one_another_by_name() {
    in_own_network(async |bench| {
        let engine = bench.engine();
        let id = network(engine, "front").await;
        let mut web = server("front", "by-name");
        web.networking_config = Some(skep_engine::types::NetworkingConfig {
            endpoints_config: [(
                "front".to_owned(),
                Some(EndpointSettings {
                    aliases: Some(vec!["www".into()]),
                    ..Default::default()
                }),
            )]
            .into(),
        });
        let web_id = run(engine, "web", web).await;
        let inspected = engine.network_inspect("front").await.unwrap();
        assert_eq!(inspected.id, id);
        assert_eq!(inspected.containers.unwrap()[&web_id].name, "web");
        for name in ["web", "www", &web_id[..12], "web.front"] {
            let script = format!(
                "for i in $(seq 50); do wget -q -O - http://{name}/ && exit 0; sleep 0.1; done; exit 1"
            );
            let (code, text) =
                run_to_end(engine, &format!("client-{name}"), on("front", &script)).await;
            assert_eq!((code, text.as_str()), (0, "by-name\n"), "{name}");
        }
        // A network that comes and goes while the container runs.
        network(engine, "back").await;
        run(engine, "mover", on("back", "while :; do sleep 0.05; done")).await;
        let resolves = async |name: &str| {
            let config = skep_engine::types::ExecConfig {
                cmd: ["nslookup", name].map(str::to_owned).to_vec(),
                attach_stdout: true,
                ..Default::default()
            };
            let exec = engine.exec_create("mover", config).await.unwrap();
            let mut attached = engine
                .exec_start(&exec, Default::default())
                .await
                .unwrap()
                .unwrap();
            while attached.output.next().await.is_some() {}
            engine.exec_inspect(&exec).await.unwrap().exit_code == Some(0)
        };
        assert!(!resolves("web").await);
        engine
            .network_connect(
                "front",
                "mover",
                EndpointSettings {
                    aliases: Some(vec!["moved".into()]),
                    links: Some(vec!["web:linked".into()]),
                    ipam_config: Some(EndpointIpam {
                        link_local_ips: vec!["169.254.7.7".into()],
                        ..Default::default()
                    }),
                    ..Default::default()
                },
            )
            .await
            .unwrap();
        assert!(resolves("web").await && resolves("moved").await && resolves("mover").await);
        // A link is a name for one container only.
        assert!(resolves("linked").await);
        let (code, _) = run_to_end(engine, "stranger", on("front", "nslookup linked")).await;
        assert_eq!(code, 1);
        let pid = engine
            .container_inspect("mover", false)
            .await
            .unwrap()
            .state
            .pid;
        let routes = std::fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap();
        assert!(routes.contains("169.254.7.7"), "{routes}");
        let twice = engine
            .network_connect("front", "mover", Default::default())
            .await
            .unwrap_err();
        assert_eq!(
            twice.to_string(),
            "endpoint with name mover already exists in network front"
        );
        let busy = engine.network_remove("front").await.unwrap_err();
        assert_eq!(busy.kind(), Kind::Forbidden);
        assert!(
            busy.to_string().starts_with(
                "error while removing network: network front has active endpoints (name:\""
            ),
            "{busy}"
        );
        engine
            .network_disconnect("front", "mover", false)
            .await
            .unwrap();
        assert!(!resolves("web").await);
        let none = engine
            .network_disconnect("front", "mover", false)
            .await
            .unwrap_err();
        assert_eq!(none.kind(), Kind::Forbidden);
        engine.container_rename("web", "renamed").await.unwrap();
        engine
            .network_connect("front", "mover", Default::default())
            .await
            .unwrap();
        assert!(resolves("renamed").await);
        bench.finish().await;
    });
}

#[test]
fn the_way_out_goes_on_by_another_network() {
    in_own_network(async |mut bench| {
        let engine = bench.engine().clone();
        network(&engine, "first").await;
        network(&engine, "second").await;
        let config = with_host(server("first", "moved"), |host| {
            let binding = PortBinding {
                host_ip: "127.0.0.1".into(),
                host_port: "18081".into(),
            };
            host.port_bindings = [("80/tcp".to_owned(), Some(vec![binding]))].into();
        });
        run(&engine, "web", config).await;
        assert_eq!(fetch("127.0.0.1:18081").await, "moved");
        engine
            .network_connect("second", "web", Default::default())
            .await
            .unwrap();
        let gateway = async |engine: &Engine| {
            let pid = engine.container_inspect("web", false).await;
            let path = format!("/proc/{}/net/route", pid.unwrap().state.pid);
            let routes = std::fs::read_to_string(path).unwrap();
            let mut words = routes.lines().map(|line| line.split_whitespace());
            let default = words.find(|line| line.clone().nth(1) == Some("00000000"));
            let hex = default.and_then(|mut line| line.nth(2)).unwrap_or("0");
            let bytes = u32::from_str_radix(hex, 16).unwrap().to_le_bytes();
            std::net::Ipv4Addr::from(bytes).to_string()
        };
        let of = async |name| endpoint(&engine, "web", name).await.gateway;
        assert_eq!(gateway(&engine).await, of("first").await);
        engine
            .network_disconnect("first", "web", false)
            .await
            .unwrap();
        assert_eq!(gateway(&engine).await, of("second").await);
        assert_eq!(fetch("127.0.0.1:18081").await, "moved");
        let before = engine.container_inspect("web", false).await.unwrap();
        drop(engine);
        bench.close().await;
        bench.open().await;
        let engine = bench.engine().clone();
        let after = engine.container_inspect("web", false).await.unwrap();
        assert_eq!(after.network_settings, before.network_settings);
        assert_eq!(fetch("127.0.0.1:18081").await, "moved");
        engine
            .network_disconnect("second", "web", false)
            .await
            .unwrap();
        assert_eq!(gateway(&engine).await, "0.0.0.0");
        drop(engine);
        bench.finish().await;
    });
}

#[test]
fn addresses_are_given_as_asked() {
    in_own_network(async |bench| {
        let engine = bench.engine();
        let range = |subnet: &str| Ipam {
            config: vec![IpamConfig {
                subnet: subnet.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let request = NetworkCreate {
            name: "own".into(),
            ipam: Some(range("10.77.0.0/24")),
            internal: true,
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..Default::default()
        };
        engine.network_create(request.clone()).await.unwrap();
        let again = engine.network_create(request.clone()).await.unwrap_err();
        assert_eq!(again.to_string(), "network with name own already exists");
        let overlapping = engine
            .network_create(NetworkCreate {
                name: "other".into(),
                ..request
            })
            .await
            .unwrap_err();
        assert_eq!(
            overlapping.to_string(),
            "invalid pool request: Pool overlaps with other one on this address space"
        );
        let asked = |address: &str| {
            let mut config = on("own", "ip -4 addr show eth0; ip route; sleep 1000");
            let endpoint = EndpointSettings {
                ipam_config: Some(EndpointIpam {
                    ipv4_address: address.into(),
                    ..Default::default()
                }),
                ..Default::default()
            };
            config.networking_config = Some(skep_engine::types::NetworkingConfig {
                endpoints_config: [("own".to_owned(), Some(endpoint))].into(),
            });
            config
        };
        run(engine, "fixed", asked("10.77.0.99")).await;
        let settings = endpoint(engine, "fixed", "own").await;
        assert_eq!(
            (
                settings.ip_address.as_str(),
                settings.ip_prefix_len,
                settings.mac_address.as_str()
            ),
            ("10.77.0.99", 24, "02:42:0a:4d:00:63")
        );
        let deadline = std::time::Instant::now() + DEADLINE;
        while !log(engine, "fixed").await.contains("10.77.0.0/24 dev eth0") {
            assert!(std::time::Instant::now() < deadline);
        }
        assert!(
            !log(engine, "fixed").await.contains("default"),
            "an internal network leads nowhere"
        );
        create(engine, "taken", asked("10.77.0.99")).await;
        assert_eq!(
            start(engine, "taken").await.unwrap_err().to_string(),
            "Address already in use"
        );
        create(engine, "outside", asked("10.78.0.1")).await;
        assert!(start(engine, "outside").await.is_err());
        run(engine, "free", on("own", "sleep 1000")).await;
        assert_eq!(
            endpoint(engine, "free", "own").await.ip_address,
            "10.77.0.2"
        );
        for name in ["bridge", "host"] {
            let error = engine
                .network_create(NetworkCreate {
                    name: name.into(),
                    ..Default::default()
                })
                .await
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Forbidden);
            assert_eq!(
                engine.network_remove(name).await.unwrap_err().to_string(),
                format!("{name} is a pre-defined network and cannot be removed")
            );
        }
        assert_eq!(
            engine
                .network_inspect("nope")
                .await
                .unwrap_err()
                .to_string(),
            "network nope not found"
        );
        let names = async |filters: Filters| -> Vec<String> {
            engine
                .network_list(&filters)
                .await
                .unwrap()
                .into_iter()
                .map(|network| network.name)
                .collect()
        };
        assert_eq!(
            names(Filters::none()).await,
            ["bridge", "host", "none", "own"]
        );
        assert_eq!(names(Filters::none().with("type", "custom")).await, ["own"]);
        assert_eq!(names(Filters::none().with("label", "a=b")).await, ["own"]);
        assert!(
            engine
                .network_prune(&Filters::none())
                .await
                .unwrap()
                .removed
                .is_empty()
        );
        for container in ["fixed", "taken", "outside", "free"] {
            engine
                .container_remove(
                    container,
                    RemoveOptions {
                        force: true,
                        volumes: false,
                    },
                )
                .await
                .unwrap();
        }
        assert_eq!(
            engine
                .network_prune(&Filters::none())
                .await
                .unwrap()
                .removed,
            ["own"]
        );
        bench.finish().await;
    });
}

#[test]
fn namespaces_of_others_can_be_shared() {
    in_own_network(async |bench| {
        let engine = bench.engine();
        network(engine, "front").await;
        let owner = run(engine, "owner", server("front", "shared")).await;
        let sharing = on(
            &format!("container:{owner}"),
            "for i in $(seq 50); do wget -q -O - http://127.0.0.1/ && break; sleep 0.1; done; cat /etc/hostname",
        );
        let (_, text) = run_to_end(engine, "sharing", sharing).await;
        assert_eq!(text, format!("shared\n{}\n", &owner[..12]));
        let (_, text) = run_to_end(
            engine,
            "on-host",
            on(
                "host",
                "ip link show lo | head -1; ls /sys/class/net | wc -w",
            ),
        )
        .await;
        assert!(text.contains("LOOPBACK,UP"), "{text}");
        let mut pid = shell("ps | grep -c httpd");
        pid.host_config.get_or_insert_default().pid_mode = format!("container:{owner}");
        assert_ne!(run_to_end(engine, "pid-sharing", pid).await.1, "0\n");
        let ports = with_host(on("host", "true"), |host| {
            host.port_bindings = [(
                "80/tcp".to_owned(),
                Some(vec![PortBinding {
                    host_port: "1".into(),
                    ..Default::default()
                }]),
            )]
            .into();
        });
        let warned = engine
            .container_create(None, ports, Default::default())
            .await
            .unwrap();
        assert_eq!(
            warned.warnings,
            ["Published ports are discarded when using host network mode"]
        );
        bench.finish().await;
    });
}
