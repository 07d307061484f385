//! One direction of a connection: bytes over a link, in order, with a bounded number of them under way.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::link::{Link, now};

/// The most bytes that are read at once.
const CHUNK: usize = 16 * 1024;

/// Why a direction has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The sender has finished, and the receiver knows it.
    Finished,
    /// The sender has reset the connection, and the packet that says so has arrived.
    Reset,
    /// The receiver takes no more bytes: it has reset the connection.
    ReceiverGone,
}

/// Something under way.
struct Parcel {
    at: Instant,
    content: Content,
}

enum Content {
    Data(Bytes),
    End(End),
}

/// Carries bytes from `reader` to `writer` over `link` until one of them ends. At most `buffer` bytes are under way or
/// held; then nothing is read.
pub async fn carry(
    link: &Link,
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    buffer: usize,
) -> End {
    let mut under_way: VecDeque<Parcel> = VecDeque::new();
    let mut chunk = vec![0; CHUNK.min(buffer)];
    let (mut held, mut reads) = (0, true);
    loop {
        let room = chunk.len().min(buffer - held);
        let front = under_way.front();
        tokio::select! {
            read = reader.read(&mut chunk[..room]), if reads && room > 0 => {
                let sent = now();
                let (bytes, content) = match read {
                    Ok(0) => (0, Content::End(End::Finished)),
                    Ok(count) => (count, Content::Data(Bytes::copy_from_slice(&chunk[..count]))),
                    Err(_) => (0, Content::End(End::Reset)),
                };
                reads = bytes > 0;
                held += bytes;
                under_way.push_back(Parcel { at: link.send(bytes, sent), content });
            }
            delivered = deliver(link, front, writer), if front.is_some() => match delivered {
                Delivered::Bytes(count) => {
                    link.count(count);
                    held -= count;
                    if let Some(Parcel { content: Content::Data(data), .. }) = under_way.front_mut() {
                        data.advance(count);
                        if data.is_empty() {
                            under_way.pop_front();
                        }
                    }
                }
                Delivered::Cut => {}
                Delivered::End(end) => return end,
            },
        }
    }
}

enum Delivered {
    Bytes(usize),
    /// The link was cut before anything was written.
    Cut,
    End(End),
}

/// Delivers a part of a parcel when it is due. When it is cancelled, nothing was written.
async fn deliver(link: &Link, parcel: Option<&Parcel>, writer: &mut (impl AsyncWrite + Unpin)) -> Delivered {
    let Some(parcel) = parcel else { return std::future::pending().await };
    link.due(parcel.at).await;
    let write = async {
        match &parcel.content {
            Content::Data(data) => match writer.write(data).await {
                Ok(0) | Err(_) => Delivered::End(End::ReceiverGone),
                Ok(count) => Delivered::Bytes(count),
            },
            Content::End(End::Finished) => {
                // An error says that the receiver has gone, which is as good.
                let _ = writer.shutdown().await;
                Delivered::End(End::Finished)
            }
            Content::End(end) => Delivered::End(*end),
        }
    };
    // A receiver that does not read makes the write wait, and a cut may come meanwhile.
    tokio::select! {
        biased;
        () = link.until_cut() => Delivered::Cut,
        delivered = write => delivered,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::link::Conditions;
    use tokio::io::duplex;

    fn link(delay_ms: u64) -> Link {
        Link::new(Conditions { delay: Duration::from_millis(delay_ms), ..Conditions::default() }, 1)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_one_delay_after_they_were_sent() {
        let link = link(75);
        let (mut client, mut near) = duplex(1024);
        let (mut far, mut server) = duplex(1024);
        let start = now();
        let converse = async {
            client.write_all(b"first").await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            client.write_all(b"second").await.unwrap();
            client.shutdown().await.unwrap();
            let (mut text, mut times) = ([0; 11], Vec::new());
            for part in [0..5, 5..11] {
                server.read_exact(&mut text[part]).await.unwrap();
                times.push(start.elapsed().as_millis());
            }
            assert_eq!((&text, times.as_slice()), (b"firstsecond", [75, 85].as_slice()));
            assert_eq!(server.read(&mut text).await.unwrap(), 0);
        };
        let (end, ()) = tokio::join!(carry(&link, &mut near, &mut far, 4096), converse);
        assert_eq!((end, link.delivered()), (End::Finished, 11));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_bytes_are_held_than_the_buffer_has() {
        let link = link(0);
        let (mut client, mut near) = duplex(100);
        let (mut far, mut server) = duplex(100);
        link.set(Conditions { cut: true, ..link.conditions() }, now());
        let converse = async {
            let mut sent: usize = 0;
            // Virtual time only passes when nothing else can.
            while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), client.write(&[b'x'; 64])).await {
                sent += written.unwrap();
            }
            // The buffer of the pipe, and that of the sender.
            assert_eq!(sent, 1000 + 100);
            link.set(Conditions::default(), now());
            let mut received = vec![0; sent];
            server.read_exact(&mut received).await.unwrap();
            client.shutdown().await.unwrap();
        };
        tokio::join!(carry(&link, &mut near, &mut far, 1000), converse);
        assert_eq!(link.delivered(), 1100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_holds_what_a_slow_receiver_has_not_taken() {
        let link = link(0);
        let (mut client, mut near) = duplex(1000);
        let (mut far, mut server) = duplex(100);
        let converse = async {
            client.write_all(&[b'x'; 500]).await.unwrap();
            let mut received = [0; 500];
            server.read_exact(&mut received[..50]).await.unwrap();
            link.set(Conditions { cut: true, ..Conditions::default() }, now());
            let mut taken = 50;
            let patience = Duration::from_secs(1);
            while let Ok(more) = tokio::time::timeout(patience, server.read(&mut received[taken..])).await {
                taken += more.unwrap();
            }
            // No more than the receiver's own buffer had.
            assert!(taken <= 150, "{taken}");
            link.set(Conditions::default(), now());
            server.read_exact(&mut received[taken..]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        tokio::join!(carry(&link, &mut near, &mut far, 1000), converse);
    }
}
