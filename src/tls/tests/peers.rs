//! Connections between peers, and strangers at the cluster port.

use super::*;

/// The two ends of a connection between peers, or why the connector has none.
async fn meet(server: &PeerSecurity, client: &PeerSecurity) -> Result<(PeerStream, PeerStream), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let mut incoming = pin!(server.incoming(listener));
    let asking = async {
        let stream = client.connector().call(uri).await.map_err(|error| error.to_string())?;
        let mut stream = stream.into_inner();
        stream.write_all(b"ping").await.map_err(|error| error.to_string())?;
        Ok::<_, String>(stream)
    };
    let mut asking = pin!(asking);
    let asked = tokio::select! {
        // A server that rejects the client gives nothing.
        accepted = incoming.next() => return Ok((accepted.unwrap().unwrap(), asking.await?)),
        asked = asking.as_mut() => asked,
    };
    let mut asked = asked?;
    let mut byte = [0];
    tokio::select! {
        accepted = incoming.next() => Ok((accepted.unwrap().unwrap(), asked)),
        read = asked.read_exact(&mut byte) => Err(read.unwrap_err().to_string()),
    }
}

#[tokio::test]
async fn peers_know_each_others_names() {
    let shop = Workshop::new();
    let security = shop.mutual(shop.identity("a").0, &[]);
    let (mut accepted, connected) = meet(&security, &security).await.unwrap();
    for stream in [&accepted, &connected] {
        assert!(stream.peer().may_be("node-1") && !stream.peer().may_be("node-2"), "{:?}", stream.peer());
    }
    let mut word = [0; 4];
    accepted.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
    let (accepted, _) = meet(&PeerSecurity::Plain, &PeerSecurity::Plain).await.unwrap();
    assert!(accepted.peer().names.is_none() && accepted.peer().may_be("anybody"));
}

#[tokio::test]
async fn a_peer_without_the_right_certificate_is_no_peer() {
    let (shop, stranger) = (Workshop::new(), Workshop::new());
    let ((a, pin_a), (b, pin_b)) = (shop.identity("a"), shop.identity("b"));
    let unpinned = shop.mutual(a.clone(), &[]);
    let other = stranger.mutual(stranger.identity("a").0, &[]);
    assert!(meet(&unpinned, &other).await.unwrap_err().contains("UnknownIssuer"));
    // The stranger trusts the authority, which does not make it trusted.
    std::fs::copy(shop.path("ca.pem"), stranger.path("ca.pem")).unwrap();
    let knowing = stranger.mutual(stranger.identity("b").0, &[]);
    assert!(meet(&unpinned, &knowing).await.unwrap_err().contains("UnknownCA"));
    // Pins count in both directions.
    let only_a = shop.mutual(a.clone(), &[pin_a]);
    let as_b = shop.mutual(b, &[pin_a, pin_b]);
    assert!(meet(&only_a, &only_a).await.is_ok());
    assert!(meet(&as_b, &only_a).await.unwrap_err().contains("none of the pinned keys"), "the connecting side");
    assert!(meet(&only_a, &as_b).await.is_err(), "the accepting side");
    assert!(meet(&as_b, &shop.mutual(a, &[pin_a, pin_b])).await.is_ok());
}

#[tokio::test]
async fn a_stranger_at_the_cluster_port_gets_an_alert_at_most() {
    let shop = Workshop::new();
    let security = shop.mutual(shop.identity("a").0, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = pin!(security.incoming(listener));
    let stranger = async {
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // The end may be a reset.
        let _ = plain.read_to_end(&mut answer).await;
        answer
    };
    let answer = tokio::select! {
        answer = stranger => answer,
        _ = incoming.next() => panic!("a stranger was let in"),
    };
    // One record of TLS with an alert: type 21, version, length 2.
    assert!(answer.is_empty() || answer.len() == 7 && answer[0] == 21 && answer[3..5] == [0, 2], "{answer:?}");
}

#[tokio::test]
async fn silent_strangers_do_not_keep_peers_out() {
    let shop = Workshop::new();
    let security = shop.mutual(shop.identity("a").0, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming = pin!(security.incoming(listener));
    let crowd = async {
        let mut silent = Vec::new();
        for _ in 0..crate::tls::peers::MAX_HANDSHAKES + 10 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // The oldest end: nothing is sent to them.
        let mut answer = Vec::new();
        let _ = silent[0].read_to_end(&mut answer).await;
        assert!(answer.is_empty());
        let mut connector = security.connector();
        let mut stream = connector.call(format!("http://{address}").parse().unwrap()).await.unwrap().into_inner();
        stream.write_all(b"ping").await.unwrap();
        (silent, stream)
    };
    // Less than the time that a silent stranger has.
    let reached = tokio::time::timeout(Duration::from_secs(4), async { tokio::join!(incoming.next(), crowd) });
    let (accepted, _held) = reached.await.unwrap();
    assert!(accepted.unwrap().unwrap().peer().may_be("node-1"));
}
