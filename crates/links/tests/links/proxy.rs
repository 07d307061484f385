//! The proxy between real TCP clients and servers on loopback. Clients of two regions have source addresses of their
//! own, and a third region is there to show that time passes.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use links::config::Config;
use links::network::{Change, Network};
use links::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

const WEST: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
const SOUTH: Ipv4Addr = Ipv4Addr::new(127, 0, 2, 1);
const NOWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 1);

/// A proxy before a server in the region `east`.
struct World {
    network: Arc<Network>,
    proxy: Arc<Proxy>,
    address: SocketAddr,
    server: TcpListener,
    running: JoinSet<()>,
}

impl World {
    async fn start(more: &str) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!(
            r#"{{ "control": "unused", {more}
                "regions": {{ "east": ["127.0.0.0/24"], "west": ["127.0.1.0/24"], "south": ["127.0.2.0/24"] }},
                "listen": [{{ "address": "127.0.0.1:0", "region": "east", "target": "{}" }}] }}"#,
            server.local_addr().unwrap()
        );
        let proxy = Arc::new(Proxy::bind(&Config::parse(&text).unwrap()).await.unwrap());
        let address = proxy.addresses().unwrap()[0];
        let mut running = JoinSet::new();
        running.spawn(Arc::clone(&proxy).run());
        Self { network: Arc::clone(&proxy.network), proxy, address, server, running }
    }

    /// Makes a connection from this address to the proxy.
    async fn dial(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Makes a connection from this address to the server. Returns the client's side and the server's.
    async fn connect(&self, from: Ipv4Addr) -> (TcpStream, TcpStream) {
        let client = self.dial(from).await;
        let (server, _) = within(self.server.accept()).await.unwrap();
        (client, server)
    }

    fn change(&self, from: &str, to: &str, change: impl FnOnce(&mut Change)) {
        let mut made = Change { from: from.to_owned(), to: to.to_owned(), ..Change::default() };
        change(&mut made);
        self.network.change(&made).unwrap();
    }

    fn cut(&self, from: &str, to: &str, cut: bool) {
        self.change(from, to, |change| change.cut = Some(cut));
    }

    /// Sends bytes from the region `south` and back, so that whatever could pass meanwhile has passed.
    async fn pass_time(&self) {
        for _ in 0..20 {
            let (mut client, mut server) = self.connect(SOUTH).await;
            speak(&mut client, &mut server, b"time").await;
            speak(&mut server, &mut client, b"passes").await;
        }
    }
}

/// Waits for something that must happen.
async fn within<T>(awaited: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), awaited).await.expect("timed out")
}

async fn speak(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
    from.write_all(text).await.unwrap();
    hear(to, text).await;
}

async fn hear(to: &mut TcpStream, text: &[u8]) {
    let mut heard = vec![0; text.len()];
    within(to.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, text);
}

fn is_silent(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// The kind of error that the next read returns, or `None` at the end.
async fn ending(stream: &mut TcpStream) -> Option<ErrorKind> {
    within(stream.read(&mut [0])).await.map_or_else(
        |error| Some(error.kind()),
        |count| {
            assert_eq!(count, 0);
            None
        },
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_complete_and_in_order_through_delay_loss_and_a_narrow_link() {
    let world = World::start(
        r#""links": [{ "from": "west", "to": "east", "both": true, "delay_ms": 3, "loss": 0.0005,
            "bytes_per_second": 50000000 }], "buffer_bytes": 100000,"#,
    )
    .await;
    let (client, mut server) = world.connect(WEST).await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    let echo = async {
        let (mut from, mut to) = server.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let (mut from, mut to) = client.into_split();
    let send = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let receive = from.read_to_end(&mut heard);
    let (_, (), ()) = within(async { tokio::join!(receive, send, echo) }).await;
    assert!(heard == sent, "{} bytes of {}", heard.len(), sent.len());
    let status = world.network.status();
    let delivered = |from: &str, to: &str| status.iter().find(|l| l.from == from && l.to == to).unwrap().bytes;
    assert_eq!((delivered("west", "east"), delivered("east", "west")), (3_000_000, 3_000_000));
}

#[tokio::test]
async fn a_cut_is_silent_and_everything_arrives_when_it_heals() {
    let world = World::start("").await;
    let (mut client, mut server) = world.connect(WEST).await;
    speak(&mut client, &mut server, b"before").await;
    world.change("east", "west", |change| (change.both, change.cut) = (true, Some(true)));
    client.write_all(b"question").await.unwrap();
    server.write_all(b"news").await.unwrap();
    server.shutdown().await.unwrap();
    // This one opens at the proxy, and no further.
    let mut late = world.dial(WEST).await;
    late.write_all(b"late").await.unwrap();
    world.pass_time().await;
    assert!(is_silent(&client) && is_silent(&server) && is_silent(&late));
    world.change("west", "east", |change| (change.both, change.cut) = (true, Some(false)));
    hear(&mut server, b"question").await;
    hear(&mut client, b"news").await;
    assert_eq!(ending(&mut client).await, None, "the end of the server's side arrives, too");
    let (mut server_of_late, _) = within(world.server.accept()).await.unwrap();
    hear(&mut server_of_late, b"late").await;
    // The client's side is still open.
    speak(&mut client, &mut server, b"after").await;
}

#[tokio::test]
async fn a_one_way_cut_lets_the_other_direction_pass() {
    let world = World::start("").await;
    let (mut client, mut server) = world.connect(WEST).await;
    // Only then is it open at both sides.
    speak(&mut server, &mut client, b"welcome").await;
    world.cut("east", "west", true);
    speak(&mut client, &mut server, b"question").await;
    server.write_all(b"answer").await.unwrap();
    world.pass_time().await;
    assert!(is_silent(&client));
    speak(&mut client, &mut server, b"again").await;
    world.cut("east", "west", false);
    hear(&mut client, b"answer").await;
}

#[tokio::test]
async fn a_cut_region_reaches_nobody_and_the_others_reach_each_other() {
    let world = World::start("").await;
    let (mut client, mut server) = world.connect(WEST).await;
    world.change("west", "all", |change| (change.both, change.cut) = (true, Some(true)));
    client.write_all(b"x").await.unwrap();
    world.pass_time().await;
    assert!(is_silent(&server));
    let cut = world.network.status().into_iter().filter(|link| link.cut);
    let cut: Vec<String> = cut.map(|link| format!("{} {}", link.from, link.to)).collect();
    assert_eq!(cut, ["east west", "south west", "west east", "west south"]);
    world.change("all", "all", |change| change.cut = Some(false));
    hear(&mut server, b"x").await;
}

#[tokio::test]
async fn connections_are_reset_when_the_link_is() {
    let world = World::start("").await;
    let (mut client, mut server) = world.connect(WEST).await;
    let (mut other_client, mut other_server) = world.connect(SOUTH).await;
    world.cut("west", "east", true);
    client.write_all(b"lost").await.unwrap();
    world.change("west", "east", |change| (change.cut, change.reset) = (Some(false), true));
    assert_eq!(ending(&mut client).await, Some(ErrorKind::ConnectionReset));
    assert_eq!(ending(&mut server).await, Some(ErrorKind::ConnectionReset));
    speak(&mut other_client, &mut other_server, b"still there").await;
    // New connections are as good as ever.
    let (mut client, mut server) = world.connect(WEST).await;
    speak(&mut client, &mut server, b"hello").await;
}

#[tokio::test]
async fn a_reset_of_one_side_reaches_the_other_and_a_cut_holds_it() {
    let world = World::start("").await;
    for server_resets in [true, false] {
        let (mut client, mut server) = world.connect(WEST).await;
        speak(&mut client, &mut server, b"hello").await;
        world.change("east", "west", |change| (change.both, change.cut) = (true, Some(true)));
        let (gone, mut other) = if server_resets { (server, client) } else { (client, server) };
        gone.set_zero_linger().unwrap();
        drop(gone);
        world.pass_time().await;
        assert!(is_silent(&other), "server resets: {server_resets}");
        world.change("east", "west", |change| (change.both, change.cut) = (true, Some(false)));
        assert_eq!(ending(&mut other).await, Some(ErrorKind::ConnectionReset), "server resets: {server_resets}");
    }
}

#[tokio::test]
async fn a_client_whose_server_is_gone_is_reset() {
    let world = World::start("").await;
    // The server has finished its side before, and then takes no more.
    let (mut client, mut server) = world.connect(WEST).await;
    server.shutdown().await.unwrap();
    assert_eq!(ending(&mut client).await, None);
    server.set_zero_linger().unwrap();
    drop(server);
    let refused = async {
        loop {
            match client.write(b"x").await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error.kind(),
            }
        }
    };
    assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&within(refused).await));
    // Nobody listens any more.
    let World { server, address, running: _running, .. } = world;
    drop(server);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((WEST, 0).into()).unwrap();
    let mut client = socket.connect(address).await.unwrap();
    assert_eq!(ending(&mut client).await, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn connections_of_no_region_and_beyond_the_limit_are_closed_and_counted() {
    let world = World::start(r#""max_connections": 1,"#).await;
    let mut stranger = world.dial(NOWHERE).await;
    assert_eq!(ending(&mut stranger).await, None);
    let (client, server) = world.connect(WEST).await;
    let mut second = world.dial(WEST).await;
    assert_eq!(ending(&mut second).await, None);
    assert_eq!(world.proxy.rejected(), 2);
    drop((client, server));
    // The place of a connection that has ended is free again.
    let again = async {
        loop {
            let mut client = world.dial(WEST).await;
            tokio::select! {
                accepted = world.server.accept() => break accepted.unwrap().0,
                _ = ending(&mut client) => {}
            }
        }
    };
    within(again).await;
}
