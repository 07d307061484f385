//! Tests of the proxy between regions, with real TCP connections on loopback.

mod command;
mod proxy;
