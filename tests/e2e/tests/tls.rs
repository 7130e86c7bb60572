//! The API over TCP: with TLS and certificates of clients, and the refusals of all others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use serde_json::json;
use skep_e2e::cluster::skep_binary;
use skep_e2e::run::{TIMEOUT, run, words};
use skep_e2e::wait::holds;
use skep_e2e::{Checks, Cluster, Ran, eventually, image, needs, secs};

const NODE: &str = "n1";

/// An authority, and the files of those that it certifies.
struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { cert, issuer }
    }

    /// `ca.pem`, `cert.pem` and `key.pem` in `directory`, valid until the end of a year.
    fn certify(
        &self,
        directory: &Path,
        names: &[String],
        purpose: ExtendedKeyUsagePurpose,
        year: i32,
    ) {
        let mut params = CertificateParams::new(names.to_vec()).unwrap();
        params.extended_key_usages = vec![purpose];
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        fs::create_dir_all(directory).unwrap();
        for (name, text) in [
            ("ca.pem", self.cert.clone()),
            ("cert.pem", cert.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
    }
}

/// A client that knows nothing but an address and a directory of certificates.
struct Client {
    program: PathBuf,
    host: String,
    home: PathBuf,
}

impl Client {
    /// With the environment that docker's users know.
    fn given(&self, certificates: &Path, line: &str, input: &[u8]) -> Ran {
        let mut command = self.command();
        command
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", certificates)
            .args(words(line));
        run(&mut command, input, TIMEOUT)
    }

    fn run(&self, certificates: &Path, line: &str) -> Ran {
        self.given(certificates, line, b"")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_BUILDKIT", "0")
            .current_dir(&self.home);
        command
    }
}

fn log(c: &Cluster) -> String {
    fs::read_to_string(c.root.join(NODE).join("daemon.log")).unwrap_or_default()
}

/// Starts the daemon again with these settings.
fn settings(c: &Cluster, settings: &serde_json::Value) {
    let path = c.root.join(NODE).join("daemon.json");
    fs::write(path, settings.to_string()).unwrap();
    c.kill(NODE);
    c.start(NODE);
}

#[test]
fn the_api_is_served_over_tls_to_certified_clients_only() {
    let (Some(docker), Some(busybox)) = (needs::docker(), needs::busybox()) else {
        return;
    };
    let Some(cluster) = Cluster::up(1, 1) else {
        return;
    };
    let c = &cluster;
    let archive = image::archive("busy:1", &image::root_file_system(&busybox));
    fs::write(c.root.join("busy.tar"), archive).unwrap();
    c.skep(NODE, "load -q -i busy.tar").ok();
    let home = c.root.join("home");
    fs::create_dir_all(home.join("context")).unwrap();
    fs::write(
        home.join("context/Dockerfile"),
        "FROM busy:1\nCOPY big /big\nRUN echo built\n",
    )
    .unwrap();
    fs::write(home.join("context/big"), vec![7; 3 << 20]).unwrap();

    let address = c.address(NODE).to_string();
    // Of the same name: clients show only certificates of authorities that the server names.
    let (ours, other) = (Authority::new("ours"), Authority::new("ours"));
    let place = |name: &str| c.root.join("tls").join(name);
    let (client, server) = (
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    );
    ours.certify(
        &place("server"),
        std::slice::from_ref(&address),
        server.clone(),
        2090,
    );
    ours.certify(&place("client"), &[], client.clone(), 2090);
    ours.certify(&place("expired"), &[], client.clone(), 2020);
    ours.certify(&place("no-client"), &[], server, 2090);
    other.certify(&place("stranger"), &[], client, 2090);
    // They all know the server's authority; `none` has no certificate, `distrustful` another authority.
    for name in ["stranger", "none"] {
        fs::create_dir_all(place(name)).unwrap();
        fs::write(place(name).join("ca.pem"), &ours.cert).unwrap();
    }
    other.certify(
        &place("distrustful"),
        &[],
        ExtendedKeyUsagePurpose::ClientAuth,
        2090,
    );
    let file = |name: &str| place("server").join(name).display().to_string();
    let hosts = [format!("tcp://{address}:2376")];
    settings(
        c,
        &json!({
            "hosts": hosts,
            "tls": true,
            "tlsverify": true,
            "tlscacert": file("ca.pem"),
            "tlscert": file("cert.pem"),
            "tlskey": file("key.pem"),
        }),
    );
    let to = |program: &Path| Client {
        program: program.to_owned(),
        host: hosts[0].clone(),
        home: home.clone(),
    };
    let clients = [("docker", to(docker)), ("skep", to(&skep_binary()))];
    let good = place("client");
    let mut checks = Checks::new();
    checks.check("requests, streams, attached input and builds work over it", || {
        for (name, client) in &clients {
            let line = "version --format '{{.Server.Version}}'";
            client.run(&good, line).ok();
            // Input that ends while output goes on.
            let input = vec![b'x'; 300_000];
            let said = client.given(&good, "run -i --rm --network none busy:1 cat", &input);
            assert!(said.clone().ok().as_bytes() == input, "{} bytes", said.out.len());
            let line = format!("run -d --name {name} --network none busy:1 sh -c 'echo one; echo two >&2; sleep 1; echo three; sleep 1000'");
            client.run(&good, &line).ok();
            let said = client.given(&good, &format!("exec -i {name} cat"), b"through exec");
            assert_eq!(said.ok(), "through exec");
            let failed = client.run(&good, &format!("exec {name} sh -c 'exit 7'"));
            assert_eq!(failed.status, 7, "{failed}");
            eventually("the log is whole", secs(10), || {
                let ran = client.run(&good, &format!("logs {name}"));
                holds((&*ran.out, &*ran.err) == ("one\nthree\n", "two\n"), &ran)
            });
            client.run(&good, &format!("rm -f {name}")).ok();
            let said = client.run(&good, &format!("build --network none -t {name}:1 context")).ok();
            assert!(said.contains("Successfully tagged"), "{said}");
            assert!(client.run(&good, "service ls").ok().contains("NAME"));
            let archive = home.join("saved.tar");
            client.run(&good, &format!("save -o {} {name}:1", archive.display())).ok();
            assert!(fs::metadata(&archive).unwrap().len() > 3 << 20);
        }
        assert!(c.get(NODE, "/info")["Warnings"].to_string().find("without").is_none());
    });
    checks.check("flags name the files as the environment does", || {
        let file = |name: &str| good.join(name).display().to_string();
        for (name, client) in &clients {
            let line = format!(
                "--tlsverify --tlscacert {} --tlscert {} --tlskey {} ps",
                file("ca.pem"),
                file("cert.pem"),
                file("key.pem")
            );
            run(client.command().args(words(&line)), b"", TIMEOUT).ok();
            // Without verification whoever answers is taken for the daemon.
            let line = line
                .replace("--tlsverify", "--tls")
                .replace(&file("ca.pem"), "/nowhere/ca.pem");
            if *name == "skep" {
                run(client.command().args(words(&line)), b"", TIMEOUT).ok();
            }
        }
    });
    checks.check(
        "a context of docker's brings its address and certificates",
        || {
            let file = |name: &str| good.join(name).display().to_string();
            let line = format!(
                "context create far --docker host={},ca={},cert={},key={}",
                hosts[0],
                file("ca.pem"),
                file("cert.pem"),
                file("key.pem")
            );
            for (_, client) in &clients {
                let bare = |line: &str| {
                    let mut command = client.command();
                    command.env_remove("DOCKER_HOST").args(words(line));
                    run(&mut command, b"", TIMEOUT)
                };
                if client.program == docker {
                    bare(&line).ok();
                }
                bare("--context far ps").ok();
            }
        },
    );
    checks.check("the SDK for Python works over it, attached and streaming", || {
        let script = format!(
            r#"
import docker
tls = docker.tls.TLSConfig(client_cert=("{0}/cert.pem", "{0}/key.pem"), ca_cert="{0}/ca.pem", verify=True)
client = docker.DockerClient(base_url="{1}", tls=tls)
assert client.containers.run("busy:1", "echo hello", network_mode="none", remove=True) == b"hello\n"
box = client.containers.run("busy:1", "sleep 1000", network_mode="none", detach=True)
assert box.exec_run("echo inside").output == b"inside\n"
sock = box.exec_run("cat", stdin=True, socket=True).output
getattr(sock, "_sock", sock).sendall(b"typed\n")
assert b"typed" in getattr(sock, "_sock", sock).recv(100)
box.remove(force=True)
image, lines = client.images.build(path="context", tag="python:1", network_mode="none")
assert any("Successfully tagged" in line.get("stream", "") for line in lines)
"#,
            good.display(),
            hosts[0].replace("tcp://", "https://"),
        );
        let python = |script: &str| {
            let mut command = Command::new("python3");
            // A bundle that the environment names would be used in place of ours.
            for name in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"] {
                command.env_remove(name);
            }
            command.current_dir(&home).args(["-c", script]);
            run(&mut command, b"", TIMEOUT)
        };
        if python("import docker").status != 0 {
            println!("skipped: there is no SDK for Python here");
            return;
        }
        python(&script).ok();
    });
    checks.check(
        "clients without a good certificate are refused, and the log says why",
        || {
            for (name, reason) in [
                ("none", "it showed no client certificate"),
                ("stranger", "of another authority than --tlscacert"),
                ("expired", "its client certificate has expired"),
                ("no-client", "not one for clients"),
                (
                    "distrustful",
                    "it does not trust the certificate of --tlscert",
                ),
            ] {
                for (program, client) in &clients {
                    let before = log(c).matches(reason).count();
                    let ran = client.run(&place(name), "ps");
                    assert!(
                        ran.status != 0 && ran.out.is_empty(),
                        "{program} {name}: {ran}"
                    );
                    eventually(&format!("{program} {name} is told of"), secs(5), || {
                        let now = log(c);
                        holds(
                            now.matches(reason).count() > before,
                            &now[now.len().saturating_sub(800)..],
                        )
                    });
                }
            }
            for (_, client) in &clients {
                let ran = run(client.command().arg("ps"), b"", TIMEOUT);
                assert!(ran.status != 0, "{ran}");
            }
            assert!(log(c).contains("it does not speak TLS"));
        },
    );
    checks.check(
        "without TLS it is served when asked for, and never in silence",
        || {
            settings(
                c,
                &json!({"hosts": [format!("tcp://{address}:2375")], "tls": false}),
            );
            let client = Client {
                program: docker.to_owned(),
                host: format!("tcp://{address}:2375"),
                home: home.clone(),
            };
            run(client.command().arg("ps"), b"", TIMEOUT).ok();
            let log = log(c);
            assert!(log.contains("Binding to IP address without --tlsverify is insecure"));
            assert!(!log.contains("intentionally being slowed down"));
            let warnings = c.get(NODE, "/info")["Warnings"].to_string();
            let text = format!("API is accessible on http://{address}:2375 without encryption");
            assert!(warnings.contains(&text), "{warnings}");
        },
    );
    checks.end();
}
