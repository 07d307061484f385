//! With mutual TLS, a node speaks only for the member that its certificate names.

use std::path::Path;

use proto::tidegate::cluster::cluster_client::ClusterClient;
use proto::tidegate::cluster::{Envelope, Rejection};
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::host::clock::SystemClock;
use tidegate::ports::plane::Role;
use tidegate::telemetry::registry::MetricsRegistry;
use tidegate::tls::Certificates;
use tidegate::tls::authority::Authority;
use tidegate::tls::metrics::TlsMetrics;
use tidegate::tls::peers::PeerSecurity;
use tidegate::tls::settings::{IdentityFiles, MutualFiles};
use tonic::transport::Endpoint;

use crate::cluster::{Seat, all_reach, leader, stop, until, write};

fn security(folder: &Path, authority: &Authority, name: &str) -> PeerSecurity {
    let issued = authority.issue(name, &["127.0.0.1".to_owned()], None, UnixTime::now().as_secs(), 30).unwrap();
    let (cert, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}-key.pem")));
    std::fs::write(&cert, issued.certificate).unwrap();
    std::fs::write(&key, issued.key).unwrap();
    let registry = MetricsRegistry::new("test", "test").unwrap();
    let certificates = Certificates::new(std::sync::Arc::new(SystemClock::new()), TlsMetrics::new(&registry).unwrap());
    let files = MutualFiles { ca: folder.join("ca.pem"), identity: IdentityFiles { cert, key }, pins: Vec::new() };
    PeerSecurity::mutual(certificates.mutual("cluster.tls", &files, &["cluster"]).unwrap())
}

fn announcement(name: &str, address: &str) -> Value {
    let node = json!({"name": name, "region": "here", "address": address, "keeps_disk": true});
    json!({"announce": {"node": node, "revision": 0}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_speaks_only_for_the_member_that_its_certificate_names() {
    let folder = TempDir::new().unwrap();
    let (authority, issued) = Authority::create("test", UnixTime::now().as_secs()).unwrap();
    std::fs::write(folder.path().join("ca.pem"), issued.certificate).unwrap();
    let seat = |name: &str| {
        let mut seat = Seat::new(name, Some(folder.path().join(name)));
        seat.security = security(folder.path(), &authority, name);
        seat
    };
    let a = seat("a").start().await;
    a.init(&[&a]).await;
    let d = seat("d").joining(&[&a.seat]).start().await;
    let revision = write(&[&a]).await;
    all_reach(&[&d], revision).await;
    let (id_a, id_d, address) = (a.node.id(), d.node.id(), d.seat.address());
    // The node d stops, and somebody has its key.
    let d = d.stop().await;
    let endpoint = Endpoint::from_shared(format!("http://{}", a.seat.address())).unwrap();
    let mut client = ClusterClient::new(endpoint.connect_with_connector(d.security.connector()).await.unwrap());
    let mut call = async |sender: u64, request: Value| {
        let (cluster, request) = ("test".to_owned(), request.to_string().into_bytes());
        let target = a.node.id();
        let envelope = Envelope { cluster, version: 1, sender, target, request, data: Vec::new() };
        client.call(envelope).await.unwrap().into_inner().rejection()
    };
    let vote = |id: u64| json!({"leader_id": {"term": 99, "node_id": id}, "committed": true});
    let requests = |id: u64| {
        let append = json!({"vote": vote(id), "prev_log_id": null, "entries": [], "leader_commit": null});
        let membership = json!({"log_id": null, "membership": {"configs": [], "nodes": {}}});
        let meta = json!({"last_log_id": null, "last_membership": membership, "snapshot_id": "0"});
        [
            json!({"vote": {"vote": vote(id), "last_log_id": null}}),
            json!({"append": {"request": append, "quorum_age_ms": null}}),
            json!({"snapshot": {"vote": vote(id), "meta": meta, "offset": 0, "done": false}}),
        ]
    };
    let remove = json!({"administer": {"remove": {"node": "d"}}});
    let rejected = Rejection::Certificate;
    for request in requests(id_a).into_iter().chain([json!("leave"), remove.clone(), announcement("d", &address)]) {
        assert_eq!(call(id_a, request.clone()).await, rejected, "{request}");
    }
    for request in requests(id_a) {
        assert_eq!(call(id_d, request.clone()).await, rejected, "{request} of another leader");
    }
    for id in [id_d, 7] {
        assert_eq!(call(id, announcement("a", &address)).await, rejected, "the name of another");
    }
    for request in [json!("leave"), remove] {
        assert_eq!(call(7, request.clone()).await, rejected, "{request} of a stranger");
    }
    assert_eq!(a.rejected(rejected), 13);
    assert!(a.leads() && a.member("d").is_some());
    assert_eq!(call(id_d, announcement("d", &address)).await, Rejection::None);
    assert_eq!(call(id_d, json!("leave")).await, Rejection::None);
    until("d has left", || a.member("d").is_none()).await;
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_does_not_change_its_name() {
    let folder = TempDir::new().unwrap();
    let a = Seat::new("a", Some(folder.path().join("a"))).start().await;
    a.init(&[&a]).await;
    leader(&[&a]).await;
    let d = Seat::new("d", Some(folder.path().join("d"))).joining(&[&a.seat]).start().await;
    until("d is a member", || a.member("d").is_some()).await;
    let mut seat = d.stop().await;
    seat.config.node = "e".to_owned();
    let e = seat.start().await;
    // The leader goes on sending to the id, whatever it calls itself.
    let revision = write(&[&a]).await;
    all_reach(&[&e], revision).await;
    assert_ne!(e.role(), Role::Removed);
    assert!(a.member("d").is_some() && a.member("e").is_none());
    stop([a, e]).await;
}
