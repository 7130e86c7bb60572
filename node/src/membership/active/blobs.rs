//! What this node has of images, for the other nodes of its cluster: a listener of its own, on managers
//! and workers alike.
//!
//! Every caller shows a certificate of this cluster, and is a member as a manager says. It is given what
//! it names by digest, and can tell by that digest whether it was given the right thing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skep_agent::peers::Admissions;
use skep_engine::{Engine, Kind, OwnedImage};
use skep_model::{ClusterId, NodeId};
use skep_pki::Peer;
use skep_proto::listen::{self, Caller};
use skep_proto::v1::blobs_server::{Blobs, BlobsServer};
use skep_proto::v1::{BlobPiece, BlobRead};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tracing::{debug, info, warn};

use super::Active;

/// The port that Swarm's nodes have open for one another already.
const PORT: u16 = 7946;
/// Blobs given at once. Whoever comes then is told to try again: by that time others have it too.
const READERS_MAX: usize = 8;
/// Pieces that may wait for one reader, and how long that may stand still.
const PIECES: usize = 4;
const STILL_MAX: Duration = Duration::from_secs(30);
/// Between two looks whether this node listens elsewhere, and before a failed attempt is repeated.
const LOOK: Duration = Duration::from_secs(2);

impl Active {
    /// Gives the other nodes what this one has of images, for as long as it is a member.
    pub(super) async fn serve_blobs(self: Arc<Self>) {
        let service = BlobsService {
            engine: Arc::clone(&self.around.engine),
            admissions: Arc::new(Admissions::new(Arc::clone(&self.worker))),
            cluster: self.saved().cluster,
            seats: Arc::new(Semaphore::new(READERS_MAX)),
        };
        loop {
            let ip = self.blobs_ip();
            let stop = CancellationToken::new();
            // Dropped with this future as well: connections must not outlive the membership.
            let _stop = stop.clone().drop_guard();
            match listen_at(ip).await {
                Ok((listener, port)) => {
                    self.worker.set_blobs_port(port);
                    info!(%ip, port, "images are shared with the other nodes");
                    let tls = Arc::clone(&self.server_tls);
                    let incoming = ReceiverStream::new(listen::accept(listener, tls, stop));
                    let served = Server::builder()
                        .http2_keepalive_interval(Some(Duration::from_secs(2)))
                        .http2_keepalive_timeout(Some(Duration::from_secs(3)))
                        .add_service(BlobsServer::new(service.clone()))
                        .serve_with_incoming(incoming);
                    tokio::select! {
                        ended = served => if let Err(error) = ended {
                            warn!(%error, "the listener for images ended");
                        },
                        () = self.moved_from(ip) => (),
                    }
                    self.worker.set_blobs_port(0);
                }
                Err(error) => warn!(%ip, %error, "images cannot be shared with the other nodes"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// What other nodes have under an image's name; nothing where no manager says so.
    pub async fn locate(&self, image: &str, only_own: bool) -> Vec<OwnedImage> {
        let Some(peers) = self.around.engine.peers() else {
            return Vec::new();
        };
        let offers = peers.find(image, only_own).await.unwrap_or_else(|error| {
            debug!(image, %error, "the other nodes cannot be asked for an image");
            Vec::new()
        });
        offers.into_iter().map(|offer| offer.image).collect()
    }

    /// Where this node listens, which is said with the port of its manager.
    fn blobs_ip(&self) -> IpAddr {
        let listen = self.saved().listen.parse::<SocketAddr>();
        listen.map_or(Ipv4Addr::UNSPECIFIED.into(), |listen| listen.ip())
    }

    async fn moved_from(&self, ip: IpAddr) {
        while self.blobs_ip() == ip {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A listener on the usual port, or on any: the others are told which.
async fn listen_at(ip: IpAddr) -> std::io::Result<(TcpListener, u16)> {
    let listener = match TcpListener::bind((ip, PORT)).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            warn!(%ip, port = PORT, "somebody listens there; images are shared on another port");
            TcpListener::bind((ip, 0)).await?
        }
        Err(error) => return Err(error),
    };
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Who says whether a node is a member.
#[async_trait]
trait Admits: Send + Sync + 'static {
    async fn admits(&self, node: &NodeId) -> skep_engine::Result<bool>;
}

#[async_trait]
impl Admits for Admissions {
    async fn admits(&self, node: &NodeId) -> skep_engine::Result<bool> {
        self.ask(node).await
    }
}

#[derive(Clone)]
struct BlobsService {
    engine: Arc<Engine>,
    admissions: Arc<dyn Admits>,
    cluster: ClusterId,
    seats: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Blobs for BlobsService {
    type ReadStream = ReceiverStream<Result<BlobPiece, Status>>;

    async fn read(&self, request: Request<BlobRead>) -> Result<Response<Self::ReadStream>, Status> {
        let peer = caller(&request, &self.cluster)?;
        let admitted = self.admissions.admits(&peer.node).await;
        if !admitted.map_err(|error| Status::unavailable(error.to_string()))? {
            return Err(Status::permission_denied(
                "the node is no member of this cluster",
            ));
        }
        let seat = Arc::clone(&self.seats).try_acquire_owned();
        let seat = seat.map_err(|_| Status::resource_exhausted("too many read here already"))?;
        let wanted = request.into_inner();
        let bytes = self.engine.blob_read(&wanted.digest, wanted.offset).await;
        let mut bytes = bytes.map_err(|error| match error.kind() {
            Kind::NotFound => Status::not_found(error.to_string()),
            Kind::Invalid => Status::invalid_argument(error.to_string()),
            _ => Status::internal(error.to_string()),
        })?;
        let (sender, pieces) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            // A reader that stands still gives its seat to others.
            let _seat = seat;
            while let Some(piece) = bytes.next().await {
                let piece = piece
                    .map(|data| BlobPiece { data })
                    .map_err(|error| Status::internal(error.to_string()));
                let sent = tokio::time::timeout(STILL_MAX, sender.send(piece)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }
}

/// Who calls: somebody with a certificate of this cluster.
fn caller<T>(request: &Request<T>, cluster: &ClusterId) -> Result<Peer, Status> {
    let caller = request.extensions().get::<Caller>();
    let der = caller.and_then(|caller| caller.certificate.as_deref());
    let der =
        der.ok_or_else(|| Status::unauthenticated("a certificate of this cluster is required"))?;
    let peer = Peer::from_der(der)
        .map_err(|_| Status::permission_denied("the certificate cannot be read"))?;
    match peer.cluster == *cluster {
        true => Ok(peer),
        false => Err(Status::permission_denied(
            "the certificate belongs to another cluster",
        )),
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use skep_engine::{EngineConfig, ImportOptions};
    use skep_manager::clock;
    use skep_model::NodeRole;
    use skep_pki::authority::{NewRoot, generate_root};
    use skep_pki::tls::{anonymous_client_config, client_config, server_config};
    use skep_pki::{Authority, Identity, request_certificate};
    use skep_proto::connect::Connector;
    use skep_proto::v1::blobs_client::BlobsClient;
    use tonic::Code;

    use super::*;

    /// Takes everybody for a member but one.
    struct AllBut(&'static str);

    #[async_trait]
    impl Admits for AllBut {
        async fn admits(&self, node: &NodeId) -> skep_engine::Result<bool> {
            Ok(node.as_str() != self.0)
        }
    }

    fn identity(root: &NewRoot, node: &str, cluster: &str) -> Identity {
        let key = request_certificate().unwrap();
        let authority = Authority::from_pem(&root.cert_pem, &root.key_pem).unwrap();
        let cert = authority.sign(
            &key.csr_pem,
            &node.into(),
            NodeRole::Worker,
            &cluster.into(),
            Duration::from_secs(3600),
            clock::now(),
        );
        Identity::from_pem(&cert.unwrap(), &key.key_pem, &root.cert_pem).unwrap()
    }

    /// A blob read by whoever has this configuration.
    async fn read(
        config: Arc<rustls::ClientConfig>,
        holder: &str,
        address: &str,
        digest: &str,
        offset: u64,
    ) -> Result<Vec<u8>, Status> {
        let connector = Connector::new(Arc::new(ArcSwap::new(config)));
        let mut client = BlobsClient::new(connector.channel_to(holder, address));
        let wanted = BlobRead {
            digest: digest.to_owned(),
            offset,
        };
        let mut pieces = client.read(wanted).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.message().await? {
            bytes.extend_from_slice(&piece.data);
        }
        Ok(bytes)
    }

    async fn engine(directory: &std::path::Path) -> (Arc<Engine>, String) {
        let config = EngineConfig::new(directory.join("data"), directory.join("run"));
        let engine = Engine::open(config).await.unwrap();
        // The end of an archive, and nothing before it.
        let options = ImportOptions {
            repo: "empty".to_owned(),
            ..ImportOptions::default()
        };
        engine.image_import(&[0; 1024][..], options).await.unwrap();
        let owned = engine.image_owned("empty:latest", true).await.unwrap();
        (engine, owned.unwrap().digest)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_members_read_and_only_what_they_name_by_digest() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (engine, digest) = engine(directory.path()).await;
        let (root, other) = (
            generate_root(clock::now()).unwrap(),
            generate_root(clock::now()).unwrap(),
        );
        let seats = Arc::new(Semaphore::new(1));
        let service = BlobsService {
            engine: Arc::clone(&engine),
            admissions: Arc::new(AllBut("removed")),
            cluster: "c".into(),
            seats: Arc::clone(&seats),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tls = server_config(&identity(&root, "holder", "c")).unwrap();
        let stop = CancellationToken::new();
        let incoming = listen::accept(listener, Arc::new(ArcSwap::new(tls)), stop.clone());
        let serving = tokio::spawn(
            Server::builder()
                .add_service(BlobsServer::new(service))
                .serve_with_incoming(ReceiverStream::new(incoming)),
        );
        let member = || client_config(&identity(&root, "reader", "c")).unwrap();
        let by = |config| read(config, "holder", &address, &digest, 0);

        let bytes = by(member()).await.unwrap();
        let rest = read(member(), "holder", &address, &digest, 3)
            .await
            .unwrap();
        assert_eq!(rest, bytes[3..]);
        let code = |refused: Result<Vec<u8>, Status>| refused.unwrap_err().code();
        // Of another cluster: its certificate is by another root, whatever it says.
        let stranger = client_config(&identity(&other, "reader", "c")).unwrap();
        assert_eq!(code(by(stranger).await), Code::Unavailable);
        let namesake = client_config(&identity(&root, "reader", "other")).unwrap();
        assert_eq!(code(by(namesake).await), Code::PermissionDenied);
        let removed = client_config(&identity(&root, "removed", "c")).unwrap();
        assert_eq!(code(by(removed).await), Code::PermissionDenied);
        let nobody = anonymous_client_config(&root.cert_pem).unwrap();
        assert_eq!(code(by(nobody).await), Code::Unauthenticated);
        // Whoever answers has to be the one that was meant.
        let elsewhere = read(member(), "another", &address, &digest, 0).await;
        assert_eq!(code(elsewhere), Code::Unavailable);
        let passwd = read(member(), "holder", &address, "../../etc/passwd", 0).await;
        assert_eq!(code(passwd), Code::InvalidArgument);
        let none = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            code(read(member(), "holder", &address, &none, 0).await),
            Code::NotFound
        );
        let _taken = seats.acquire().await.unwrap();
        assert_eq!(code(by(member()).await), Code::ResourceExhausted);
        stop.cancel();
        serving.abort();
        engine.close().await;
    }
}
