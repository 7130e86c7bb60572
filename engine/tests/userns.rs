//! Containers whose users are others on the host.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use common::*;
use skep_engine::types::{HostConfig, NetworkCreate, PortBinding};
use skep_engine::{CommitOptions, Engine, EngineConfig, Kind};
use skep_shim::userns::IdMap;

const ROOT: u32 = 1_879_048_192;

/// The bench, with containers that are mapped unless they say otherwise; `None` with a reason
/// printed where that cannot be.
async fn remapped(mut bench: Bench) -> Option<Bench> {
    let launcher = skep_shim::Launcher::new(skep_engine::SHIM).unwrap();
    if let Err(error) = launcher.network_namespace(&IdMap::from_zero(ROOT, 65_536)) {
        eprintln!("skipped: {error}");
        bench.finish().await;
        return None;
    }
    bench.close().await;
    bench
        .open_as(EngineConfig {
            userns_remap: Some(IdMap::from_zero(ROOT, 65_536)),
            ..bench.config()
        })
        .await;
    Some(bench)
}

fn userns(
    config: skep_engine::types::ContainerConfig,
    mode: &str,
) -> skep_engine::types::ContainerConfig {
    with_host(config, |host| host.userns_mode = mode.into())
}

async fn map_of(engine: &Engine, name: &str) -> Vec<String> {
    let pid = engine
        .container_inspect(name, false)
        .await
        .unwrap()
        .state
        .pid;
    fs::read_to_string(format!("/proc/{pid}/uid_map"))
        .unwrap()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

async fn archive_of(engine: &Engine, name: &str, path: &str) -> Vec<(String, u64, String)> {
    let (_, mut stream) = engine.container_get_archive(name, path).await.unwrap();
    entries(&collect(&mut stream).await)
}

async fn collect(stream: &mut skep_engine::ByteStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.unwrap());
    }
    bytes
}

/// Name, owner and contents of the entries of an archive.
fn entries(bytes: &[u8]) -> Vec<(String, u64, String)> {
    use std::io::Read as _;
    let mut archive = tar::Archive::new(bytes);
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            let _ = entry.read_to_string(&mut text);
            let name = entry.path().unwrap().display().to_string();
            (name, entry.header().uid().unwrap(), text)
        })
        .collect()
}

#[test]
fn the_daemons_map_is_every_containers_but_those_that_opt_out() {
    in_own_network(async |bench| {
        let Some(bench) = remapped(bench).await else {
            return;
        };
        let engine = bench.engine();
        let info = engine.info();
        assert!(info.security_options.contains(&"name=userns".to_owned()));

        run(engine, "mapped", shell("id -u; sleep 100")).await;
        assert_eq!(
            map_of(engine, "mapped").await,
            ["0", &ROOT.to_string(), "65536"]
        );
        run(engine, "host", userns(shell("sleep 100"), "host")).await;
        assert_eq!(map_of(engine, "host").await[1], "0");
        run(engine, "own", userns(shell("sleep 100"), "private")).await;
        assert_eq!(map_of(engine, "own").await[1], (ROOT + 65_536).to_string());
        run(engine, "other", userns(shell("sleep 100"), "private")).await;
        assert_eq!(
            map_of(engine, "other").await[1],
            (ROOT + 2 * 65_536).to_string()
        );
        let shown = engine.container_inspect("own", false).await.unwrap();
        assert_eq!(shown.host_config.userns_mode, "private");

        // Who joins another's namespaces has its users.
        let joined = with_host(shell("sleep 100"), |host| {
            host.pid_mode = "container:own".into();
            host.ipc_mode = "container:own".into();
        });
        run(engine, "joined", joined).await;
        assert_eq!(map_of(engine, "joined").await, map_of(engine, "own").await);
        let joined = with_host(shell("sleep 100"), |host| {
            host.pid_mode = "container:host".into()
        });
        run(engine, "unmapped", joined).await;
        assert_eq!(map_of(engine, "unmapped").await[1], "0");
        bench.finish().await;
    });
}

#[test]
fn what_shares_with_the_host_is_refused_unless_in_its_namespace() {
    in_own_network(async |bench| {
        let Some(bench) = remapped(bench).await else {
            return;
        };
        let engine = bench.engine();
        let refused = async |change: fn(&mut HostConfig), text: &str| {
            let config = with_host(shell("true"), change);
            let error = engine
                .container_create(None, config.clone(), Default::default())
                .await
                .unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(text), "{error}");
            engine
                .container_create(None, userns(config, "host"), Default::default())
                .await
                .unwrap();
        };
        refused(
            |host| host.privileged = true,
            "privileged mode is incompatible with user namespaces",
        )
        .await;
        refused(
            |host| host.network_mode = "host".into(),
            "cannot share the host's network namespace when user namespaces are enabled",
        )
        .await;
        refused(
            |host| host.pid_mode = "host".into(),
            "cannot share the host PID namespace when user namespaces are enabled",
        )
        .await;
        let error = engine
            .container_create(None, userns(shell("true"), "odd"), Default::default())
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("invalid user namespace mode: odd"),
            "{error}"
        );
        bench.finish().await;
    });
}

#[test]
fn files_have_the_containers_ids_wherever_they_are_looked_at() {
    in_own_network(async |bench| {
        let Some(bench) = remapped(bench).await else {
            return;
        };
        let engine = bench.engine();
        let config = with_host(
            shell(
                "touch /root/mine /data/of-root; chown 1000:1000 /root/mine; cat /etc/hosts /etc/resolv.conf > /dev/null; echo more >> /etc/hosts; sleep 100",
            ),
            |host| {
                host.binds = Some(vec!["data:/data".into()]);
                host.tmpfs = [("/scratch".to_owned(), String::new())].into();
            },
        );
        let id = run(engine, "one", config).await;
        let directory = bench.path().join("data/containers").join(&id);
        until("the script", || directory.join("upper/root/mine").exists()).await;
        until("the hosts file", || {
            fs::read_to_string(directory.join("hosts")).is_ok_and(|text| text.ends_with("more\n"))
        })
        .await;
        assert_eq!(
            fs::metadata(directory.join("upper/root/mine"))
                .unwrap()
                .uid(),
            1000
        );
        let volume = engine.volume_inspect("data").await.unwrap().mountpoint;
        assert_eq!(fs::metadata(format!("{volume}/of-root")).unwrap().uid(), 0);

        // While it runs, and afterwards.
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_uid(1000);
        header.set_size(3);
        builder
            .append_data(&mut header, "put", &b"in\n"[..])
            .unwrap();
        let archive = builder.into_inner().unwrap();
        for (live, place) in [
            (true, "/root"),
            (true, "/scratch"),
            (true, "/data"),
            (false, "/home"),
        ] {
            if !live {
                engine.container_kill("one", "KILL").await.unwrap();
                until("it ended", || {
                    !std::path::Path::new(&format!("/proc/{id}")).exists()
                })
                .await;
                until_inspect(engine, "one", "the end", |found| !found.state.running).await;
            }
            engine
                .container_put_archive(
                    "one",
                    place,
                    Default::default(),
                    std::io::Cursor::new(archive.clone()),
                )
                .await
                .unwrap();
            let found = archive_of(engine, "one", &format!("{place}/put")).await;
            assert_eq!(
                found,
                [("put".to_owned(), 1000, "in\n".to_owned())],
                "{place}"
            );
            let found = archive_of(engine, "one", "/root/mine").await;
            assert_eq!(found[0].1, 1000);
            let found = archive_of(engine, "one", "/etc/passwd").await;
            assert_eq!(found[0].1, 0);
        }
        let changes = engine.container_changes("one").await.unwrap();
        assert!(changes.iter().any(|change| change.path == "/root/mine"));
        let exported = entries(&collect(&mut engine.container_export("one").await.unwrap()).await);
        let owner = |path: &str| exported.iter().find(|entry| entry.0 == path).unwrap().1;
        assert_eq!((owner("root/mine"), owner("bin/busybox")), (1000, 0));

        // An image of it means the same to a container without a map.
        let options = CommitOptions {
            repo: "committed".into(),
            ..CommitOptions::default()
        };
        engine.container_commit("one", options).await.unwrap();
        let mut config = userns(shell("stat -c %u /root/mine /etc/passwd"), "host");
        config.image = "committed".into();
        assert_eq!(run_to_end(engine, "two", config).await.1, "1000\n0\n");
        bench.finish().await;
    });
}

#[test]
fn networks_and_ports_work_and_belong_to_the_container() {
    in_own_network(async |bench| {
        let Some(bench) = remapped(bench).await else {
            return;
        };
        let engine = bench.engine();
        let create = NetworkCreate {
            name: "net".into(),
            ..NetworkCreate::default()
        };
        engine.network_create(create).await.unwrap();
        let on = |script: &str| {
            with_host(shell(script), |host| {
                host.network_mode = "net".into();
                host.cap_add = Some(vec!["NET_ADMIN".into()]);
            })
        };
        let mut server = on(
            "ip link set eth0 mtu 1400 && echo configured; mkdir /www; echo hello > /www/index.html; httpd -f -p 80 -u app -h /www",
        );
        server.user = "0".into();
        server.exposed_ports = [("80/tcp".to_owned(), Default::default())].into();
        server.host_config.as_mut().unwrap().port_bindings = [(
            "80/tcp".to_owned(),
            Some(vec![PortBinding {
                host_ip: "127.0.0.1".into(),
                host_port: String::new(),
            }]),
        )]
        .into();
        run(engine, "server", server).await;
        let found = engine.container_inspect("server", false).await.unwrap();
        let port: u16 = found.network_settings.ports["80/tcp"].as_ref().unwrap()[0]
            .host_port
            .parse()
            .unwrap();
        let mut answer = String::new();
        until("the server answers", || {
            use std::io::{Read as _, Write as _};
            let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
                return false;
            };
            let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").is_ok();
            answer.clear();
            asked && stream.read_to_string(&mut answer).is_ok() && answer.contains("hello")
        })
        .await;
        assert_eq!(log(engine, "server").await, "configured\n");
        let (code, text) = run_to_end(
            engine,
            "client",
            on("wget -q -O - http://server/ && ping -c 1 -W 5 server > /dev/null && echo pong"),
        )
        .await;
        assert_eq!((code, text.as_str()), (0, "hello\npong\n"));
        bench.finish().await;
    });
}
