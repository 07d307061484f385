//! One connection: its opening, both directions, and its reset.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::link::{Link, now};
use crate::pipe::{End, carry};

/// The longest time for the connection to a server, which is near the proxy.
const CONNECT: Duration = Duration::from_secs(10);

/// The links of a connection.
#[derive(Clone)]
pub struct Links {
    /// From the client's region to the server's.
    pub out: Arc<Link>,
    /// From the server's region to the client's.
    pub back: Arc<Link>,
}

/// Serves a connection until it ends. `buffer` bounds the bytes that each direction holds.
pub async fn serve(mut client: TcpStream, target: SocketAddr, links: Links, buffer: usize) {
    let (out_reset, back_reset) = (links.out.until_reset(), links.back.until_reset());
    let mut server = None;
    let ended_well = tokio::select! {
        () = out_reset => false,
        () = back_reset => false,
        ended_well = exchange(&mut client, &mut server, target, &links, buffer) => ended_well,
    };
    if !ended_well {
        // Closing then sends a reset.
        for stream in [Some(client), server].into_iter().flatten() {
            let _ = stream.set_zero_linger();
        }
    }
}

/// Returns true when both sides have finished, and false when one of them was reset or refused.
async fn exchange(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    target: SocketAddr,
    links: &Links,
    buffer: usize,
) -> bool {
    links.out.pass(now()).await;
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await;
    // The client hears of success or refusal one delay later.
    links.back.pass(now()).await;
    let Ok(Ok(connected)) = connected else { return false };
    let server = server.insert(connected);
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut out = pin!(carry(&links.out, &mut from_client, &mut to_server, buffer));
    let mut back = pin!(carry(&links.back, &mut from_server, &mut to_client, buffer));
    let (first, first_is_out) = tokio::select! {
        end = &mut out => (end, true),
        end = &mut back => (end, false),
    };
    match first {
        End::Finished => {
            let (second, opposite) = match first_is_out {
                true => (back.await, &links.out),
                false => (out.await, &links.back),
            };
            if second == End::ReceiverGone {
                opposite.pass(now()).await;
            }
            second == End::Finished
        }
        End::Reset => false,
        // Its reset passes the other direction, in which bytes may still be under way.
        End::ReceiverGone => {
            match first_is_out {
                true => carry_on(back, links.back.pass(now())).await,
                false => carry_on(out, links.out.pass(now())).await,
            }
            false
        }
    }
}

/// Drives a direction until the packet of a reset has passed.
async fn carry_on(direction: impl Future<Output = End>, reset: impl Future<Output = ()>) {
    let forever = async {
        direction.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reset => {}
        () = forever => {}
    }
}
