//! Certificates that an authority outside of the cluster signs: a small one in cfssl's form, over TLS
//! on loopback, that asks for managers' certificates.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use skep_manager::clock;
use skep_manager::external::{Authorities, Wanted};
use skep_model::cluster::{RootCa, RootRotation};
use skep_model::node::NodeDescription;
use skep_model::{Cluster, ClusterSpec, Kind, NodeRole};
use skep_pki::authority::NewRoot;
use skep_pki::root::cross_sign;
use skep_pki::tls::{anonymous_client_config, client_config};
use skep_pki::{Authority, Identity, Peer, generate_root, request_certificate};
use skep_proto::connect::open_once;
use skep_proto::encode;
use skep_proto::v1::IssueRequest;
use skep_proto::v1::ca_client::CaClient;
use support::{LIFE, free_address, identity, manager, update};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What an authority does with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Signs,
    Refuses,
    Silent,
    Endless,
    Nonsense,
    /// Signs what it was asked for, with a root of its own.
    OtherRoot,
    /// Signs for another node than it was asked for.
    OtherNode,
    ForYears,
}

/// The URL of an authority that has the key of `root`, and runs as long as the test.
async fn authority(root: &NewRoot, way: Way) -> String {
    authority_for(root, &root.cert_pem, way).await
}

/// The same, for managers with certificates of any of these roots.
async fn authority_for(root: &NewRoot, clients_pem: &str, way: Way) -> String {
    let key = KeyPair::generate().unwrap();
    let own = KeyPair::from_pem(&root.key_pem).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&root.cert_pem, own).unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(clients_pem.as_bytes()) {
        roots.add(der.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let root = root.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, root) = (acceptor.clone(), root.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(tcp).await {
                    serve(stream, &root, way).await;
                }
            });
        }
    });
    format!("https://{address}/api/v1/cfssl/authsign")
}

async fn serve(mut stream: TlsStream<tokio::net::TcpStream>, root: &NewRoot, way: Way) {
    let mut heard = Vec::new();
    let body = loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        heard.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&heard).into_owned();
        // The body is one JSON object, and comes last.
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str::<Value>(body)
        {
            assert!(
                head.starts_with("POST /api/v1/cfssl/authsign HTTP/1.1\r\n"),
                "{head}"
            );
            break body;
        }
    };
    let answer = match way {
        Way::Silent => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            return;
        }
        Way::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            return;
        }
        Way::Nonsense => "<html>".to_owned(),
        Way::Refuses => json!({
            "success": false, "result": null, "messages": [],
            "errors": [{"code": 5100, "message": "no such\nprofile"}],
        })
        .to_string(),
        _ => json!({
            "success": true, "result": {"certificate": signed(root, &body, way)},
            "errors": [], "messages": [],
        })
        .to_string(),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    );
    let _ = stream.write_all((head + &answer).as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn signed(root: &NewRoot, body: &Value, way: Way) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let names = &body["subject"]["names"][0];
    let role = match text(&names["OU"]).as_str() {
        "swarm-manager" => NodeRole::Manager,
        "swarm-worker" => NodeRole::Worker,
        other => panic!("{other}"),
    };
    let node = match way {
        Way::OtherNode => "another".to_owned(),
        _ => text(&body["subject"]["CN"]),
    };
    let life = match way {
        Way::ForYears => LIFE * 20,
        _ => LIFE,
    };
    let other = generate_root(clock::now()).unwrap();
    let root = if way == Way::OtherRoot { &other } else { root };
    let csr = text(&body["certificate_request"]);
    Authority::from_pem(&root.cert_pem, &root.key_pem)
        .unwrap()
        .sign(
            &csr,
            &node.into(),
            role,
            &text(&names["O"]).into(),
            life,
            clock::now(),
        )
        .unwrap()
}

fn member(root: &NewRoot) -> Arc<ClientConfig> {
    client_config(&identity(root, "m")).unwrap()
}

/// A cluster that has no key of its root, and these authorities.
fn cluster(root: &NewRoot, urls: &[String]) -> Cluster {
    let mut cluster = Cluster {
        id: "c".into(),
        root_ca: RootCa {
            cert: root.cert_pem.clone(),
            ..RootCa::default()
        },
        ..Cluster::default()
    };
    let urls = urls.iter();
    cluster.spec.ca_config.external_cas = urls
        .map(|url| json!({"Protocol": "cfssl", "URL": url, "CACert": root.cert_pem}))
        .collect();
    cluster
}

async fn sign(cluster: &Cluster, member: &ClientConfig) -> Result<String, String> {
    let mut authorities = Authorities::of(cluster).unwrap().unwrap();
    authorities.patience = (Duration::from_millis(700), Duration::from_secs(5));
    let key = request_certificate().unwrap();
    let peer = Peer {
        node: "n".into(),
        role: NodeRole::Worker,
        cluster: "c".into(),
    };
    let wanted = Wanted {
        csr_pem: &key.csr_pem,
        peer: &peer,
        life: LIFE,
        now: clock::now(),
    };
    let signed = authorities.sign(member, wanted).await;
    let cert = signed.map_err(|error| error.message)?;
    let identity = Identity::from_pem(&cert, &key.key_pem, &cluster.root_ca.cert).unwrap();
    assert_eq!(identity.peer, peer);
    Ok(cert)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_signs_and_what_it_should_not_have_is_refused() {
    let root = generate_root(clock::now()).unwrap();
    let member = member(&root);
    for (way, why) in [
        (Way::Signs, ""),
        (Way::Refuses, "it refused (200): no such profile"),
        (Way::Silent, "it did not answer in time"),
        (Way::Endless, "the answer cannot be read"),
        (Way::Nonsense, "it answered 200, and not in cfssl's form"),
        (Way::OtherRoot, "not signed by the swarm's root"),
        (Way::OtherNode, "does not name the node"),
        (Way::ForYears, "longer than the swarm's certificates live"),
    ] {
        let url = authority(&root, way).await;
        match sign(&cluster(&root, std::slice::from_ref(&url)), &member).await {
            Ok(_) => assert_eq!(way, Way::Signs),
            Err(told) => assert!(
                !why.is_empty() && told.contains(why) && told.contains(&url),
                "{way:?}: {told}"
            ),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_are_asked_one_after_the_other() {
    let root = generate_root(clock::now()).unwrap();
    let nobody = format!("https://{}/", free_address());
    let urls = [
        nobody.clone(),
        authority(&root, Way::Refuses).await,
        authority(&root, Way::Signs).await,
    ];
    sign(&cluster(&root, &urls), &member(&root)).await.unwrap();
    let told = sign(&cluster(&root, &urls[..2]), &member(&root)).await;
    let told = told.unwrap_err();
    assert!(
        told.contains(&nobody) && told.contains("no such profile"),
        "{told}"
    );
    // Strangers are not served, and serve nobody.
    let other = generate_root(clock::now()).unwrap();
    assert!(
        sign(&cluster(&root, &urls[2..]), &self::member(&other))
            .await
            .is_err()
    );
    let stranger = [authority(&other, Way::Signs).await];
    let told = sign(&cluster(&root, &stranger), &self::member(&root)).await;
    assert!(told.unwrap_err().contains("no TLS with it"));
}

#[test]
fn who_signs_follows_from_the_root() {
    let (root, next) = (
        generate_root(clock::now()).unwrap(),
        generate_root(clock::now()).unwrap(),
    );
    let mut cluster = cluster(&root, &["https://a/".to_owned()]);
    assert!(Authorities::of(&cluster).unwrap().is_some());
    // While the next root signs, who has the key of the present one is not asked.
    cluster.root_ca.rotation = Some(RootRotation {
        cross_signed: cross_sign(&root, &next.cert_pem, clock::now()).unwrap(),
        cert: next.cert_pem.clone(),
        ..RootRotation::default()
    });
    assert!(Authorities::of(&cluster).unwrap().is_none());
    let of_next = json!({"URL": "https://b/", "CACert": next.cert_pem});
    cluster.spec.ca_config.external_cas.push(of_next);
    assert!(Authorities::of(&cluster).unwrap().is_some());
    cluster.spec.ca_config.external_cas.clear();
    assert!(Authorities::of(&cluster).unwrap().is_none());
}

/// What a new node that shows the workers' token is answered.
async fn join(root: &NewRoot, address: SocketAddr) -> Result<Identity, tonic::Status> {
    let config = anonymous_client_config(&root.cert_pem).unwrap();
    let mut client = CaClient::new(open_once(&address.to_string(), config));
    let key = request_certificate().unwrap();
    let request = IssueRequest {
        csr_pem: key.csr_pem,
        token: "w".to_owned(),
        description: encode(&NodeDescription::default()),
        ..IssueRequest::default()
    };
    let reply = client.issue(request).await?.into_inner();
    Ok(Identity::from_pem(&reply.cert_pem, &key.key_pem, &reply.root_pem).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_by_a_certificate_from_outside_and_is_not_listed_without() {
    let root = generate_root(clock::now()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (manager, address) = manager(&root, ClusterSpec::default(), directory.path()).await;
    let nodes = async || manager.snapshot(false).await.unwrap().nodes().count();
    let refusing = authority(&root, Way::Refuses).await;
    let of_root = |url: &str| vec![json!({"URL": url, "CACert": root.cert_pem})];
    update(&manager, |spec| {
        spec.ca_config.external_cas = of_root(&refusing)
    })
    .await
    .unwrap();
    let told = join(&root, address).await.unwrap_err();
    assert!(told.message().contains("no such profile"), "{told}");
    assert_eq!(nodes().await, 1);

    let signing = authority(&root, Way::Signs).await;
    update(&manager, |spec| {
        spec.ca_config.external_cas = of_root(&signing)
    })
    .await
    .unwrap();
    let joined = join(&root, address).await.unwrap();
    assert_eq!(joined.peer.role, NodeRole::Worker);
    let snapshot = manager.snapshot(false).await.unwrap();
    assert!(snapshot.node(&joined.peer.node).is_some());
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_rotated_to_one_whose_key_stays_outside() {
    let (root, next) = (
        generate_root(clock::now()).unwrap(),
        generate_root(clock::now()).unwrap(),
    );
    let directory = tempfile::tempdir().unwrap();
    let (manager, address) = manager(&root, ClusterSpec::default(), directory.path()).await;
    let adopt = |url: String| {
        let next = next.cert_pem.clone();
        move |spec: &mut ClusterSpec| {
            spec.ca_config.external_cas = vec![json!({"URL": url, "CACert": next})];
            spec.ca_config.signing_ca_cert = next;
        }
    };
    let nobody = format!("https://{}/", free_address());
    let refused = update(&manager, adopt(nobody)).await.unwrap_err();
    assert_eq!(refused.kind, Kind::FailedPrecondition, "{refused}");
    assert!(
        refused.message.contains("it cannot be reached"),
        "{refused}"
    );

    // An authority of the next root that also knows the managers of the present one.
    let both = format!("{}{}", root.cert_pem, next.cert_pem);
    let url = authority_for(&next, &both, Way::Signs).await;
    update(&manager, adopt(url)).await.unwrap();
    let snapshot = manager.snapshot(false).await.unwrap();
    let root_ca = &snapshot.cluster().unwrap().root_ca;
    assert_eq!(root_ca.rotation.as_ref().unwrap().key, "");
    // Believed by whoever knows the present root alone: what it signed goes along.
    let joined = join(&root, address).await.unwrap();
    assert_eq!(joined.cert_pem.matches("BEGIN CERTIFICATE").count(), 2);
    assert_eq!(
        joined.tls_info(),
        skep_pki::identity::tls_info(&root.cert_pem, &next.cert_pem)
    );
    manager.shutdown().await;
}
