//! A TCP proxy that stands between regions. It knows the region that a connection comes from by its source address, and
//! the region that it goes to by the address that it was made to. Each pair of regions has two links, one for each
//! direction. A link has a one-way delay, a bandwidth, loss, and can be cut; all of them change at run time.
//!
//! The proxy passes bytes and not packets, so it models what a network does to a TCP connection:
//!
//! - **Opening** a connection takes one delay to the server and one back. Bytes that the client sends earlier wait.
//! - **Delay**: bytes arrive one delay after they were sent, in order. Each direction of a connection holds a bounded
//!   number of bytes; when it is full, the proxy does not read from the sender, which then waits as for a full window.
//! - **Bandwidth**: all connections of a link share it, first come, first served.
//! - **Loss** is a probability for each segment of 1,448 bytes. Lost bytes come late, after the retransmission timeout
//!   of Linux: two delays and 200 ms, doubled each time, 1 s for the opening of a connection. What was sent later waits
//!   for them, because TCP keeps the order.
//! - **A cut** is silent, as if each packet was dropped. Connections stay open. Bytes, ends and resets are held, also
//!   those that were under way. A connection that is made during a cut opens at the proxy and gets no answer. When the
//!   link heals, what was held arrives one delay later; or all connections over the link are reset, if the person who
//!   heals it asks for that.
//!
//! What differs from a network: the sender's kernel has its acknowledgements from the proxy. It therefore does not end
//! a connection by a timeout of its own during a cut. And when only one direction is cut, the other one goes on for as
//! long as the peers do, where TCP would stop after one window without acknowledgements.

pub mod config;
pub mod connection;
pub mod control;
pub mod link;
pub mod network;
pub mod pipe;
pub mod proxy;
