#![doc = include_str!("../README.md")]

pub mod api;
pub mod authority;
pub mod backup;
pub mod external;
pub mod identity;
pub mod rescue;
pub mod root;
pub mod seal;
pub mod tls;
pub mod token;
pub mod unlock;

pub use authority::{Authority, MANAGER_NAME, generate_root};
pub use identity::{Identity, Peer, request_certificate};
pub use seal::{SealError, Sealer, SecretKey, random_bytes};
pub use token::{JoinToken, same_secret};

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skep_model::{ClusterId, NodeId, NodeRole, Timestamp};

    use super::*;

    fn issue(role: NodeRole) -> Identity {
        let now = Timestamp::from_secs(1_800_000_000);
        let root = generate_root(now).unwrap();
        let authority = Authority::from_pem(&root.cert_pem, &root.key_pem).unwrap();
        let request = request_certificate().unwrap();
        let cert = authority
            .sign(
                &request.csr_pem,
                &NodeId::new("node1"),
                role,
                &ClusterId::new("cluster1"),
                Duration::from_secs(1000),
                now,
            )
            .unwrap();
        Identity::from_pem(&cert, &request.key_pem, &root.cert_pem).unwrap()
    }

    #[test]
    fn a_certificate_says_node_role_and_cluster() {
        for role in [NodeRole::Manager, NodeRole::Worker] {
            let identity = issue(role);
            assert_eq!(identity.peer.node.as_str(), "node1");
            assert_eq!(identity.peer.role, role);
            assert_eq!(identity.peer.cluster.as_str(), "cluster1");
            tls::server_config(&identity).unwrap();
            tls::client_config(&identity).unwrap();
        }
    }

    #[test]
    fn renewal_falls_between_half_and_four_fifths_of_a_life() {
        let identity = issue(NodeRole::Worker);
        let issued = Timestamp::from_secs(1_800_000_000);
        let life = identity.not_after.since(issued).as_secs_f64();
        assert!((life - 1000.0).abs() < 1.0);
        for (chance, share) in [(0, 0.5), (u64::MAX / 2, 0.65), (u64::MAX, 0.8)] {
            let at = identity.renew_at(chance).since(issued).as_secs_f64();
            assert!((at / life - share).abs() < 0.01);
        }
    }

    #[test]
    fn a_request_that_is_none_is_refused() {
        let now = Timestamp::from_secs(1_800_000_000);
        let root = generate_root(now).unwrap();
        let authority = Authority::from_pem(&root.cert_pem, &root.key_pem).unwrap();
        let life = Duration::from_secs(10);
        let signed = authority.sign(
            "nonsense",
            &"n".into(),
            NodeRole::Worker,
            &"c".into(),
            life,
            now,
        );
        assert!(matches!(signed, Err(authority::AuthorityError::Request(_))));
    }
}
