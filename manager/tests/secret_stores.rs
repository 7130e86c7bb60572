//! Stores of secrets outside of the cluster, asked on behalf of nodes over real TLS: a command, and a
//! small server in the form of Vault's.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use skep_manager::stores::Stores;
use skep_manager::stores::option::read_all;
use skep_manager::{Manager, clock};
use skep_model::mount::Driver;
use skep_model::node::NodeDescription;
use skep_model::payload::{PayloadId, VersionChange};
use skep_model::{ClusterSpec, ControlRequest, NodeRole, SecretSpec, ServiceSpec, Task};
use skep_pki::authority::NewRoot;
use skep_pki::generate_root;
use skep_pki::tls::client_config;
use skep_proto::assignment::Item;
use skep_proto::connect::Connector;
use skep_proto::v1::dispatcher_client::DispatcherClient;
use skep_proto::v1::secret_answer::Outcome;
use skep_proto::v1::{
    AgentMessage, Heartbeat, Hello, SecretQuestion, agent_message, manager_message,
};
use skep_proto::{decode, encode};
use skep_reconcile::NewNode;
use support::{identity_of, manager_with};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

const DEADLINE: Duration = Duration::from_secs(60);

fn script(directory: &Path, text: &str) -> String {
    let (path, draft) = (directory.join("store"), directory.join("draft"));
    std::fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::rename(&draft, &path).unwrap();
    format!("pass=exec:{}", path.display())
}

/// A server in Vault's form, whose certificate `root` has signed. Counts what it is asked.
async fn vault(root: &NewRoot) -> (SocketAddr, Arc<AtomicUsize>) {
    let key = KeyPair::generate().unwrap();
    let own = KeyPair::from_pem(&root.key_pem).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&root.cert_pem, own).unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                continue;
            };
            counter.fetch_add(1, Ordering::SeqCst);
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 1024];
                match stream.read(&mut piece).await {
                    Ok(count) if count > 0 => heard.extend_from_slice(&piece[..count]),
                    _ => break,
                }
            }
            let (status, body) = answer(&String::from_utf8_lossy(&heard).to_lowercase());
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all((head + &body).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, asked)
}

fn answer(heard: &str) -> (u16, String) {
    let errors = |text: &str| json!({"errors": [text]}).to_string();
    if !heard.contains("\r\nx-vault-token: good\r\n")
        || !heard.contains("\r\nx-vault-namespace: team\r\n")
    {
        return (403, errors("permission denied"));
    }
    let version = match heard.lines().next().unwrap_or_default() {
        "get /v1/kv/data/prod/db http/1.1" => 2,
        "get /v1/kv/data/prod/db?version=1 http/1.1" => 1,
        _ => return (404, json!({"errors": []}).to_string()),
    };
    let data = json!({"value": format!("vaulted-{version}"), "port": 5432});
    let kept = json!({"data": data, "metadata": {"version": version}});
    (200, json!({"data": kept}).to_string())
}

struct Bench {
    root: NewRoot,
    manager: Manager,
    address: SocketAddr,
}

impl Bench {
    async fn new(directory: &Path, stores: &[String]) -> Self {
        let root = generate_root(clock::now()).unwrap();
        let stores = Stores::with_patience(read_all(stores).unwrap(), DEADLINE);
        let (manager, address) =
            manager_with(&root, ClusterSpec::default(), directory, stores).await;
        let bench = Self {
            root,
            manager,
            address,
        };
        for node in ["w", "x"] {
            let snapshot = bench.manager.snapshot(false).await.unwrap();
            let new = NewNode {
                id: node.into(),
                ..NewNode::default()
            };
            let commit = skep_reconcile::add_node(&snapshot, new, clock::now()).unwrap();
            bench.manager.commit(&commit).await.unwrap();
        }
        bench
    }

    fn client(&self, node: &str) -> DispatcherClient<Channel> {
        let identity = identity_of(&self.root, node, NodeRole::Worker);
        let config = client_config(&identity).unwrap();
        let connector = Connector::new(Arc::new(ArcSwap::new(config)));
        DispatcherClient::new(connector.channel(&self.address.to_string()))
    }

    async fn create_secret(&self, name: &str, store: &str, options: &[(&str, &str)]) -> String {
        let options = options.iter();
        let options: BTreeMap<String, String> = options
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let spec = SecretSpec {
            name: name.to_owned(),
            driver: Some(Driver {
                name: store.to_owned(),
                options,
            }),
            ..SecretSpec::default()
        };
        let made = self.manager.submit(ControlRequest::CreateSecret { spec });
        made.await.unwrap().id
    }

    async fn create_service(&self, secrets: &[&str]) {
        let secrets = secrets.iter();
        let secrets: Vec<_> = secrets
            .map(|name| json!({"SecretName": name, "File": {"Name": name}}))
            .collect();
        let spec: ServiceSpec = serde_json::from_value(json!({
            "Name": "web", "Labels": {"tier": "front"},
            "TaskTemplate": {"ContainerSpec": {"Image": "x", "Secrets": secrets}},
            "Mode": {"Replicated": {"Replicas": 1}},
        }))
        .unwrap();
        let spec = Box::new(spec);
        let made = self.manager.submit(ControlRequest::CreateService { spec });
        made.await.unwrap();
    }

    /// Holds a session as node w does, until the task is there; what it was told of secrets.
    async fn task(&self) -> (Task, Vec<String>) {
        let (out, outgoing) = tokio::sync::mpsc::channel(8);
        let description = NodeDescription {
            asks_stores: true,
            ..NodeDescription::default()
        };
        let hello = agent_message::Content::Hello(Hello {
            description: encode(&description),
        });
        let said = |content| AgentMessage {
            content: Some(content),
        };
        out.send(said(hello)).await.unwrap();
        let mut client = self.client("w");
        let session = client.session(ReceiverStream::new(outgoing)).await;
        let mut incoming = session.unwrap().into_inner();
        // Ends when nobody listens any more.
        tokio::spawn(async move {
            let beat = || said(agent_message::Content::Heartbeat(Heartbeat { sent: 0 }));
            while out.send(beat()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let hear = async {
            let mut secrets = Vec::new();
            loop {
                let message = incoming.message().await.unwrap().unwrap();
                let Some(manager_message::Content::Assignments(told)) = message.content else {
                    continue;
                };
                let mut task = None;
                for item in &told.put {
                    match decode::<Item>("item", &item.value).unwrap() {
                        Item::Task(found) => task = Some(*found),
                        Item::Secret(secret) => secrets.push(format!("{:?}", secret.spec.data)),
                        _ => (),
                    }
                }
                if let Some(task) = task {
                    // The session goes on: the node is there.
                    tokio::spawn(async move { while incoming.message().await.is_ok() {} });
                    return (task, secrets);
                }
            }
        };
        tokio::time::timeout(DEADLINE, hear).await.unwrap()
    }

    async fn fetch(
        &self,
        node: &str,
        task: &Task,
        secret: &str,
        number: u64,
    ) -> Result<Result<String, String>, Status> {
        let question = SecretQuestion {
            task_id: task.id.to_string(),
            secret_id: secret.to_owned(),
            number,
        };
        let answer = self.client(node).fetch_secret(question).await?.into_inner();
        Ok(match answer.outcome.unwrap() {
            Outcome::Data(bytes) => Ok(String::from_utf8(bytes).unwrap()),
            Outcome::Reason(why) => Err(why),
            Outcome::NotHere(_) => panic!("nodes are never told that"),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_given_what_its_own_tasks_need_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "cat >{}; printf given",
        directory.path().join("request").display()
    );
    let stores = [script(directory.path(), &text)];
    let bench = Bench::new(&directory.path().join("raft"), &stores).await;
    let key = bench.create_secret("key", "pass", &[("place", "a")]).await;
    let other = bench.create_secret("other", "pass", &[]).await;
    let nowhere = bench.create_secret("nowhere", "gone", &[]).await;
    bench.create_service(&["key", "nowhere"]).await;
    let (task, told) = bench.task().await;
    assert_eq!(told, ["[]", "[]"], "what is assigned has no bytes");
    assert_eq!(
        bench.fetch("w", &task, &key, 1).await.unwrap().unwrap(),
        "given"
    );
    let request = std::fs::read(directory.path().join("request")).unwrap();
    let request: serde_json::Value = serde_json::from_slice(&request).unwrap();
    assert_eq!(
        request,
        json!({
            "SecretName": "key", "SecretVersion": 1, "ServiceName": "web",
            "ServiceID": task.service_id, "ServiceLabels": {"tier": "front"},
            "Options": {"place": "a"},
        })
    );
    let why = bench.fetch("w", &task, &nowhere, 1).await.unwrap();
    let why = why.unwrap_err();
    assert!(
        why.starts_with("secret store gone: no manager has it: not m "),
        "{why}"
    );
    for (node, secret, number, case) in [
        ("x", &key, 1, "another node"),
        ("w", &other, 1, "a secret that the task does not use"),
        ("w", &key, 2, "a version that it is not to see"),
    ] {
        let refused = bench.fetch(node, &task, secret, number).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{case}");
    }
    let none = Task {
        id: "none".into(),
        ..task.clone()
    };
    let refused = bench.fetch("w", &none, &key, 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    // Once the task is to end, it needs nothing any more.
    let snapshot = bench.manager.snapshot(false).await.unwrap();
    let id = snapshot.service(&task.service_id).unwrap().id.clone();
    bench
        .manager
        .submit(ControlRequest::RemoveService { id })
        .await
        .unwrap();
    let refused = async {
        loop {
            match bench.fetch("w", &task, &key, 1).await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(refused) => return refused.code(),
            }
        }
    };
    let refused = tokio::time::timeout(DEADLINE, refused).await;
    assert_eq!(refused.unwrap(), Code::PermissionDenied);
    bench.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_is_asked_over_tls_with_the_token_that_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let of_vault = generate_root(clock::now()).unwrap();
    let (address, asked) = vault(&of_vault).await;
    let (token, ca) = (directory.path().join("token"), directory.path().join("ca"));
    std::fs::write(&ca, &of_vault.cert_pem).unwrap();
    let option = format!(
        "v=vault:https://{address},token-file={},ca-file={},namespace=team",
        token.display(),
        ca.display()
    );
    let bench = Bench::new(&directory.path().join("raft"), &[option]).await;
    let place = [("mount", "kv"), ("path", "prod/db")];
    let key = bench.create_secret("key", "v", &place).await;
    let lost = bench.create_secret("lost", "v", &[]).await;
    bench.create_service(&["key", "lost"]).await;
    let (task, _) = bench.task().await;
    let refused = async |secret: &str, number: u64| {
        // What was refused a moment ago is not asked again at once.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let outcome = bench.fetch("w", &task, secret, number).await.unwrap();
        outcome.unwrap_err()
    };
    let why = refused(&key, 1).await;
    assert!(why.starts_with("secret store v: token-file "), "{why}");
    assert!(why.ends_with("(asked by manager m)"), "{why}");
    std::fs::write(&token, "bad\n").unwrap();
    let why = refused(&key, 1).await;
    assert!(
        why.contains("may not read kv/prod/db (403: permission denied)"),
        "{why}"
    );
    std::fs::write(&token, "good\n").unwrap();
    let why = refused(&lost, 1).await;
    assert!(
        why.contains("there is nothing at secret/lost (404)"),
        "{why}"
    );
    std::fs::write(&ca, &bench.root.cert_pem).unwrap();
    let why = refused(&key, 1).await;
    assert!(why.contains("no TLS with 127.0.0.1"), "{why}");
    std::fs::write(&ca, &of_vault.cert_pem).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let before = asked.load(Ordering::SeqCst);
    let all = futures_util::future::join_all((0..20).map(|_| bench.fetch("w", &task, &key, 1)));
    for outcome in all.await {
        assert_eq!(outcome.unwrap().unwrap(), "vaulted-2");
    }
    assert_eq!(asked.load(Ordering::SeqCst), before + 1);
    // The next version asks for an earlier one of the vault's.
    let change = |options: &[(&str, &str)]| {
        let options = options.iter();
        let pairs = options.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        bench.manager.submit(ControlRequest::ChangeVersion {
            object: PayloadId::Secret(key.as_str().into()),
            change: VersionChange::Anew(pairs.collect()),
            users: Some("signal=HUP".to_owned()),
            expiry: None,
        })
    };
    let wrong = change(&[("version", "x")]).await.unwrap_err();
    assert!(
        wrong
            .message
            .contains("option version: \"x\" is no version"),
        "{wrong}"
    );
    assert_eq!(change(&[("version", "1")]).await.unwrap().id, "2");
    let outcome = async {
        loop {
            match bench.fetch("w", &task, &key, 2).await {
                Ok(outcome) => return outcome,
                // The orders for the tasks come a moment later.
                Err(status) => assert_eq!(status.code(), Code::PermissionDenied),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let outcome = tokio::time::timeout(DEADLINE, outcome).await;
    assert_eq!(outcome.unwrap().unwrap(), "vaulted-1");
    bench.manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_makes_a_secret_hears_what_its_store_does_not_take() {
    let directory = tempfile::tempdir().unwrap();
    let option = "v=vault:https://127.0.0.1:1,token-file=/none".to_owned();
    let bench = Bench::new(&directory.path().join("raft"), &[option]).await;
    let create = |name: &str, store: &str, key: &str| {
        bench.manager.submit(ControlRequest::CreateSecret {
            spec: SecretSpec {
                name: name.to_owned(),
                driver: Some(Driver {
                    name: store.to_owned(),
                    options: BTreeMap::from([(key.to_owned(), "x".to_owned())]),
                }),
                ..SecretSpec::default()
            },
        })
    };
    let wrong = create("a", "v", "pth").await.unwrap_err();
    assert_eq!(
        wrong.message,
        "secret a: secret store v: a vault takes no option \"pth\": want mount, path, field, version or encoding"
    );
    assert_eq!(create("a", "v", "path").await.unwrap().warnings, [""; 0]);
    let made = create("b", "other", "whatever").await.unwrap();
    assert!(
        made.warnings[0].contains("this manager has no secret store \"other\""),
        "{made:?}"
    );
    bench.manager.shutdown().await;
}
