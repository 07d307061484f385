//! Hostile clients: their use of resources is bounded, closed connections are counted, and other clients are served
//! meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::node::wait_for;
use crate::victim::{
    CHECK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, MAX_GROWTH_BYTES, RESET, Victim, flood, frame,
    grpc_headers,
};
use bytes::Bytes;
use prost::Message;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use proto::envoy::service::ratelimit::v3::rate_limit_response::Code;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tonic::codegen::http;

#[test]
fn connections_beyond_the_maximum_are_closed_at_once() {
    let victim = Victim::new(&[("TIDEGATE_LIMITS__MAX_CONNECTIONS", "20")]);
    let idle: Vec<TcpStream> = (0..20).map(|_| victim.connect(&victim.node.grpc)).collect();
    let open = || victim.node.metric(r#"tidegate_connections{face="grpc"} "#);
    wait_for("all connections to be open", || (open() == 20.0).then_some(()));
    for _ in 0..10 {
        assert_eq!(
            victim.connect(&victim.node.grpc).read(&mut [0; 100]).unwrap_or(0),
            0,
            "the connection must be closed at once"
        );
    }
    assert_eq!(victim.closed("grpc", "full"), 10.0);
    assert_eq!(victim.closed("grpc", "protocol"), 0.0);
    victim.assert_healthy();
    // Silent connections are closed after a timeout.
    wait_for("the silent connections to be closed", || (open() == 0.0).then_some(()));
    assert_eq!(victim.closed("grpc", "slow"), 20.0);
    drop(idle);
}

#[test]
fn a_flood_of_reset_streams_closes_the_connection() {
    let victim = Victim::new(&[]);
    let headers = grpc_headers("Check");
    for round in 1..=3 {
        let mut stream = victim.connect_http2();
        let sent = flood(&mut stream, 200_000, |index| {
            let id = 2 * index + 1;
            [frame(HEADERS, END_HEADERS, id, &headers), frame(RESET, 0, id, &[0, 0, 0, 8])].concat()
        });
        assert!(sent < 200_000, "the connection must be closed");
        wait_for("the closed connection to be counted", || {
            (victim.closed("grpc", "protocol") >= f64::from(round)).then_some(())
        });
    }
    victim.assert_healthy();
}

#[test]
fn endless_headers_close_the_connection() {
    let victim = Victim::new(&[]);
    let mut stream = victim.connect(&victim.node.grpc);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    wait_for("HTTP/1 on the gRPC listener to be counted", || (victim.closed("grpc", "protocol") == 1.0).then_some(()));
    // Headers that never end (CONTINUATION flood).
    let mut stream = victim.connect_http2();
    stream.write_all(&frame(HEADERS, 0, 1, &grpc_headers("Check"))).unwrap();
    // Each frame has sixty header fields with literal names.
    let fields = [&[0, 100][..], &[b'x'; 100], &[120], &[b'y'; 120]].concat().repeat(60);
    let sent = flood(&mut stream, 20_000, |_| frame(CONTINUATION, 0, 1, &fields));
    assert!(sent < 20_000, "the connection must be closed");
    wait_for("the closed connection to be counted", || (victim.closed("grpc", "protocol") >= 2.0).then_some(()));
    // Endless headers over HTTP/1.
    let mut stream = victim.connect_http();
    stream.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    let sent = flood(&mut stream, 200_000, |index| format!("x-{index}: {}\r\n", "y".repeat(200)).into_bytes());
    assert!(sent < 200_000, "the connection must be closed");
    wait_for("the closed connection to be counted", || (victim.closed("http", "protocol") >= 1.0).then_some(()));
    victim.assert_healthy();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_gateways_pass_on_are_read() {
    let victim = Victim::new(&[]);
    let authorize = |method: &str, headers: &str| {
        victim.node.send(&format!("{method} /v1/authorize?domain=d HTTP/1.1{headers}"), "").status
    };
    let many: String = (0..4000).map(|at| format!("\r\nx-{at}: {at}")).collect();
    let odd = [
        many.clone(),
        format!("\r\nuser-agent: {}", "y".repeat(90_000)),
        "\r\nexpect: 100-continue".to_owned(),
        "\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk".to_owned(),
        "\r\nx-request-id: a b\r\nx-request-id: c".to_owned(),
        "\r\ncontent-type: nothing\r\naccept: nothing".to_owned(),
    ];
    for headers in odd {
        assert_eq!(authorize("GET", &headers), 200, "{}", &headers[..headers.len().min(40)]);
    }
    for method in ["GET", "POST", "OPTIONS", "TRACE", "CONNECT", "PRI", "MKCOL", "get", "!#$%&'*+-.^_`|~"] {
        assert_eq!(authorize(method, ""), 200, "{method}");
    }
    let absolute = victim.node.send("GET http://other.example/v1/authorize?domain=d HTTP/1.1", "");
    assert_eq!(absolute.status, 200);
    let too_long = format!("\r\nuser-agent: {}", "y".repeat(250_000));
    assert_eq!(authorize("GET", &too_long), 431);
    // The same over HTTP/2, with a smaller bound.
    let stream = tokio::net::TcpStream::connect(&victim.node.http).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test's runtime")]
    tokio::spawn(connection);
    for length in [60_000, 70_000] {
        client = client.ready().await.unwrap();
        let request = http::Request::get("http://x/v1/authorize?domain=d").header("user-agent", "z".repeat(length));
        let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        assert_eq!(response.await.unwrap().status(), if length < 65_000 { 200 } else { 431 });
    }
    tokio::task::block_in_place(|| {
        assert_eq!(victim.node.metric(r#"rate_limiter_requests_total{status="error"} "#), 0.0);
        victim.assert_healthy();
    });
}

#[test]
fn endless_pings_and_settings_use_bounded_memory() {
    let victim = Victim::new(&[]);
    for control_frame in [frame(0x6, 0, 0, &[0; 8]), frame(0x4, 0, 0, &[])] {
        // The client reads no responses.
        let mut stream = victim.connect_http2();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let frames = control_frame.repeat(1000);
        let sent = (0..2000).take_while(|_| stream.write_all(&frames).is_ok()).count();
        assert!(sent < 2000, "the node must stop reading");
        victim.assert_healthy();
    }
}

#[test]
fn endless_request_bodies_are_rejected() {
    let victim = Victim::new(&[]);
    let head =
        "POST /v1/check HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    // The fast body becomes too large. The slow bodies do not arrive in time.
    let mut fast = victim.connect_http();
    fast.write_all(head.as_bytes()).unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let mut slow: Vec<TcpStream> = (0..50).map(|_| victim.connect_http()).collect();
    slow.iter_mut().for_each(|stream| stream.write_all(head.as_bytes()).unwrap());
    while fast.write_all(chunk.as_bytes()).is_ok() {}
    let errors = || victim.node.metric(r#"rate_limiter_requests_total{status="error"} "#);
    wait_for("the fast body to be rejected", || (errors() >= 1.0).then_some(()));
    victim.assert_healthy();
    wait_for("the slow bodies to be rejected", || {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(b"1\r\n \r\n")));
        (errors() >= 51.0).then_some(())
    });
    for stream in &mut slow {
        let mut status_line = [0; 12];
        if stream.read_exact(&mut status_line).is_ok() {
            assert_eq!(&status_line, b"HTTP/1.1 408");
        }
    }
    victim.assert_healthy();
}

#[test]
fn slow_and_silent_connections_are_closed() {
    let victim = Victim::new(&[]);
    let mut slow: Vec<TcpStream> = (0..100).map(|_| victim.connect_http()).collect();
    let head = b"GET /health HTTP/1.1\r\nx-slow: ";
    slow.iter_mut().for_each(|stream| stream.write_all(head).unwrap());
    // Other clients send nothing, or only the first bytes of the HTTP/2 preface.
    let mut silent: Vec<TcpStream> = (0..50).map(|_| victim.connect_http()).collect();
    silent.iter_mut().take(25).for_each(|stream| stream.write_all(b"PRI * H").unwrap());
    let open = || victim.node.metric(r#"tidegate_connections{face="http"} "#);
    // The node must release connections that the client closes without waiting for a timeout.
    let closed_by_client: Vec<TcpStream> = (0..20).map(|_| victim.connect_http()).collect();
    closed_by_client.iter().for_each(|mut stream| stream.write_all(b"P").unwrap());
    wait_for("all connections to be open", || (open() >= 170.0).then_some(()));
    drop(closed_by_client);
    wait_for("the release of the connections that the client closed", || (open() < 152.0).then_some(()));
    wait_for("the other connections to be open", || (open() >= 150.0).then_some(()));
    let (mut rounds, mut closed) = (0, 0.0);
    while rounds < 3000 && closed < 150.0 {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(b"z")));
        std::thread::park_timeout(Duration::from_millis(50));
        victim.assert_healthy();
        (rounds, closed) = (rounds + 1, victim.closed("http", "slow"));
    }
    assert!(closed >= 150.0, "only {closed} connections were closed");
}

/// tonic and hyper send up to a hundred calls before they receive the server's limit of concurrent streams.
#[test]
fn a_hundred_calls_before_the_settings_of_the_server_are_answered() {
    let victim = Victim::new(&[("TIDEGATE_WORKERS", "1")]);
    let other_connections: Vec<TcpStream> = (0..20).map(|_| victim.connect_http2()).collect();
    let open = || victim.node.metric(r#"tidegate_connections{face="grpc"} "#);
    wait_for("the other connections to be open", || (open() == 20.0).then_some(()));
    let check = [&[0, 0, 0, 0, 3][..], b"\x0a\x01d"].concat();
    let calls = (0..100).flat_map(|call| {
        let id = 2 * call + 1;
        [frame(HEADERS, END_HEADERS, id, &grpc_headers("Check")), frame(DATA, END_STREAM, id, &check)].concat()
    });
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(0x4, 0, 0, &[])].concat();
    let mut stream = victim.connect(&victim.node.grpc);
    stream.write_all(&preface.into_iter().chain(calls).collect::<Vec<u8>>()).unwrap();
    let (mut ended, mut reset) = (0, 0);
    while ended + reset < 100 {
        let mut header = [0; 9];
        stream.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        std::io::copy(&mut (&mut stream).take(length.into()), &mut std::io::sink()).unwrap();
        match header[3] {
            RESET => reset += 1,
            HEADERS | DATA if header[4] & END_STREAM != 0 => ended += 1,
            _ => {}
        }
    }
    assert_eq!((ended, reset), (100, 0));
    drop(other_connections);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_messages_have_a_common_memory_bound() {
    let victim = Victim::new(&[]);
    // Each message announces almost a mebibyte and lacks its last bytes. Each connection sends 200 of them.
    let message = Bytes::from([&[0][..], &0xf_ffffu32.to_be_bytes(), &vec![0; 0xf_fff0]].concat());
    let mut held = Vec::new();
    for _ in 0..2 {
        let stream = tokio::net::TcpStream::connect(&victim.node.grpc).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "the task ends with the test's runtime")]
        tokio::spawn(connection);
        for _ in 0..200 {
            client = client.ready().await.unwrap();
            let request = http::Request::post("http://x/tidegate.v1.RateLimitService/Check")
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            let (response, mut body) = client.send_request(request, false).unwrap();
            body.send_data(message.clone(), false).unwrap();
            held.push((response, body));
        }
    }
    let shed = || victim.node.metric(r#"tidegate_shed_total{reason="reading"} "#);
    tokio::task::block_in_place(|| wait_for("load to be shed", || (shed() >= 1.0).then_some(())));
    for _ in 0..20 {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let grown = victim.growth();
    assert!(grown < 64e6 + 2.0 * MAX_GROWTH_BYTES, "memory grew by {grown} bytes");
    assert_eq!(victim.node.check(CHECK).status, 200, "other clients must be served");
    let mut other = RateLimitServiceClient::connect(format!("http://{}", victim.node.grpc)).await.unwrap();
    let check = CheckRequest { domain: "d".to_owned(), ..CheckRequest::default() };
    assert!(other.check(check).await.unwrap().into_inner().allowed, "other clients must be served over gRPC");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_messages_of_a_gateway_that_find_no_room_are_denials() {
    let victim = Victim::new(&[]);
    let entry = Entry { key: b"path".to_vec(), value: vec![b'a'; 900_000] };
    let descriptor = RateLimitDescriptor { entries: vec![entry], ..RateLimitDescriptor::default() };
    let message =
        RateLimitRequest { domain: "d".to_owned(), descriptors: vec![descriptor], hits_addend: 1 }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap();
    let message = Bytes::from([&[0][..], &length.to_be_bytes(), &message].concat());
    let stream = tokio::net::TcpStream::connect(&victim.node.grpc).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test's runtime")]
    tokio::spawn(connection);
    // All messages arrive at once: each lacks its last bytes until all others have begun.
    let mut calls = Vec::new();
    for _ in 0..120 {
        client = client.ready().await.unwrap();
        let request = http::Request::post("http://x/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(message.slice(..message.len() - 10), false).unwrap();
        calls.push((response, body));
    }
    let shed = || victim.node.metric(r#"tidegate_shed_total{reason="reading"} "#);
    tokio::task::block_in_place(|| wait_for("load to be shed", || (shed() >= 1.0).then_some(())));
    for (_, body) in &mut calls {
        body.send_data(message.slice(message.len() - 10..), true).unwrap();
    }
    let mut denied = 0.0;
    for (response, _) in calls {
        let answer = tokio::time::timeout(Duration::from_secs(60), response).await.expect("an answer").unwrap();
        let status = answer.headers().get("grpc-status").cloned();
        assert_eq!(status, None, "a gateway that fails open lets a request pass if its check is an error");
        let mut body = answer.into_body();
        let mut content = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            content.extend_from_slice(&piece);
        }
        assert_eq!(body.trailers().await.unwrap().unwrap().get("grpc-status").unwrap(), "0");
        let answer = RateLimitResponse::decode(&content[5..]).unwrap();
        if answer.overall_code == i32::from(Code::OverLimit) {
            assert_eq!(answer.response_headers_to_add[0].value, "too_many_bytes");
            denied += 1.0;
        }
    }
    assert_eq!(shed(), denied);
    assert!(denied > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_whose_message_does_not_arrive_end_in_time() {
    let victim = Victim::new(&[]);
    let stream = tokio::net::TcpStream::connect(&victim.node.grpc).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test's runtime")]
    tokio::spawn(connection);
    let paths = [
        "tidegate.v1.RateLimitService/Check",
        "tidegate.v1.RateLimitService/CheckBatch",
        "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
    ];
    let mut held = Vec::new();
    for path in paths {
        client = client.ready().await.unwrap();
        let request = http::Request::post(format!("http://x/{path}"))
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(&[0, 0, 0, 0, 100, 1]), false).unwrap();
        held.push((path, response, body));
    }
    for (path, response, _body) in held {
        let answer = tokio::time::timeout(Duration::from_secs(60), response).await.expect("the call must end").unwrap();
        assert_eq!(answer.headers().get("grpc-status").unwrap(), "4", "{path}: DEADLINE_EXCEEDED");
    }
}
