//! Connections, and the calls on them. All of it lives on one thread.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use h2::Reason;
use h2::client::SendRequest;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::http::{HeaderValue, Method, Request, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::calls::{self, Call};
use super::gate::{Gate, Turn};
use super::keys::Source;
use super::record::{Outcome, Recorder};
use super::{Plan, stream};

/// How much a connection and a call may have on their way here, in bytes.
const WINDOW: u32 = 4 * 1024 * 1024;
/// How long to wait before a connection that was lost is made anew.
const PAUSE: Duration = Duration::from_millis(20);

/// One thread's load.
pub struct Load {
    pub plan: Plan,
    pub gate: Gate,
    pub recorder: RefCell<Recorder>,
    source: RefCell<Source>,
}

impl Load {
    /// The keys of a call.
    pub fn keys(&self, turn: Turn) -> Vec<u64> {
        let size = u64::from(self.plan.call.batch());
        let mut source = self.source.borrow_mut();
        (0..size).map(|at| source.key(turn.number * size + at)).collect()
    }

    pub fn lost(&self, why: &dyn std::error::Error) {
        let mut recorder = self.recorder.borrow_mut();
        recorder.failures.connection += 1;
        recorder.failures.first.get_or_insert_with(|| why.to_string());
    }

    fn back(&self, turn: Turn, keys: &[u64], outcomes: &[Outcome], why: impl FnOnce() -> String) {
        let mut recorder = self.recorder.borrow_mut();
        if outcomes.len() == keys.len() {
            recorder.back(turn, keys.iter().copied().zip(outcomes.iter().copied()));
        } else {
            recorder.failures.first.get_or_insert_with(why);
            recorder.back(turn, keys.iter().map(|key| (*key, Outcome::Error)));
        }
    }
}

/// Carries out one thread's share of the plan.
pub async fn load(plan: &Plan, thread: u32, threads: u32, gate: Gate, recorder: Recorder) -> io::Result<Recorder> {
    let source = RefCell::new(Source::new(&plan.keys, plan.seed.wrapping_add(thread.into())));
    let load = Rc::new(Load { plan: plan.clone(), gate, recorder: RefCell::new(recorder), source });
    let connections = plan.connections / threads + u32::from(thread < plan.connections % threads);
    let mut workers = JoinSet::new();
    for _ in 0..connections {
        match plan.call {
            Call::Http => {
                for _ in 0..plan.in_flight {
                    let connection = http1(&load.plan).await?;
                    workers.spawn_local(one_by_one(Rc::clone(&load), connection));
                }
            }
            Call::Stream => {
                let connection = http2(plan).await?;
                workers.spawn_local(stream::messages(Rc::clone(&load), connection));
            }
            Call::Envoy | Call::Native | Call::Batch(_) => {
                let connection = Rc::new(tokio::sync::Mutex::new(http2(plan).await?));
                for _ in 0..plan.in_flight {
                    workers.spawn_local(calls_in_turn(Rc::clone(&load), Rc::clone(&connection)));
                }
            }
        }
    }
    let unsent = load.gate.pace().await?;
    load.recorder.borrow_mut().failures.unsent += unsent;
    let all = async { while workers.join_next().await.is_some() {} };
    let length = match plan.length {
        // In an open loop it is over once all has been due.
        super::Length::Time(_) if plan.rate.is_some() => Duration::ZERO,
        super::Length::Time(time) => plan.warm_up + time,
        // It takes as long as it takes.
        super::Length::Calls(_) => Duration::from_secs(3600 * 24),
    };
    if tokio::time::timeout(length + plan.patience, all).await.is_err() {
        load.recorder.borrow_mut().failures.unanswered += workers.len() as u64;
        workers.shutdown().await;
    }
    drop(workers);
    let load = Rc::into_inner(load).ok_or_else(|| io::Error::other("a call is still under way"))?;
    Ok(load.recorder.into_inner())
}

/// A connection of HTTP/2.
pub async fn http2(plan: &Plan) -> io::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(plan.target).await?;
    stream.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
    let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        // Whoever sends on it is told why it ended.
        let _ = connection.await;
    });
    Ok(sender)
}

/// The head of every gRPC call.
pub fn head(plan: &Plan) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    // What is no authority was found before.
    if let Ok(uri) = format!("http://{}{}", plan.authority, plan.call.path()).parse() {
        *request.uri_mut() = uri;
    }
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

/// One of the calls under way on a connection, again and again.
async fn calls_in_turn(load: Rc<Load>, connection: Rc<tokio::sync::Mutex<SendRequest<Bytes>>>) {
    let head = head(&load.plan);
    let call = load.plan.call;
    let mut sender = connection.lock().await.clone();
    let mut body = Vec::new();
    while let Some(turn) = load.gate.next().await {
        let keys = load.keys(turn);
        let question = load.plan.question.body(call, &keys);
        body.clear();
        let mut status = unary(&mut sender, &head, question.clone(), &mut body).await;
        if status.as_ref().is_err_and(|(sent, _)| !sent) {
            // The server had done with the connection.
            renew(&load.plan, &connection, &mut sender).await;
            status = unary(&mut sender, &head, question, &mut body).await;
        }
        match status {
            Ok(status) => {
                let outcomes = match call {
                    Call::Batch(_) => calls::batch(&body),
                    _ => calls::one(call, &body).map(|one| vec![one]),
                };
                load.back(turn, &keys, &outcomes.unwrap_or_default(), || status);
            }
            Err((_, error)) => {
                load.lost(&error);
                renew(&load.plan, &connection, &mut sender).await;
            }
        }
    }
}

/// Sends one call, and gathers what comes back in `body`; returns the status. An error says whether it was sent.
async fn unary(
    sender: &mut SendRequest<Bytes>,
    head: &Request<()>,
    question: Bytes,
    body: &mut Vec<u8>,
) -> Result<String, (bool, h2::Error)> {
    let ready = sender.clone().ready().await;
    *sender = ready.map_err(|error| (false, error))?;
    let sent = sender.send_request(head.clone(), false);
    let (answer, mut asked) = sent.map_err(|error| (false, error))?;
    // What comes behind a connection that ends in order was not looked at.
    let lost = |error: h2::Error| (!(error.is_go_away() && error.reason() == Some(Reason::NO_ERROR)), error);
    asked.send_data(question, true).map_err(lost)?;
    let answer = answer.await.map_err(lost)?;
    let (parts, mut bytes) = answer.into_parts();
    while let Some(chunk) = bytes.data().await {
        let chunk = chunk.map_err(lost)?;
        bytes.flow_control().release_capacity(chunk.len()).map_err(lost)?;
        body.extend_from_slice(&chunk);
    }
    if parts.status == StatusCode::OK && !body.is_empty() {
        return Ok(String::new());
    }
    let trailers = bytes.trailers().await.map_err(lost)?.unwrap_or_default();
    let of = |name| trailers.get(name).or_else(|| parts.headers.get(name)).map(|value| format!("{name} {value:?}"));
    let status = ["grpc-status", "grpc-message"].into_iter().filter_map(of);
    Ok([format!("HTTP status {}", parts.status.as_u16())].into_iter().chain(status).collect::<Vec<_>>().join(", "))
}

/// Makes a lost connection anew; whoever comes first does it for all of them.
async fn renew(plan: &Plan, connection: &tokio::sync::Mutex<SendRequest<Bytes>>, sender: &mut SendRequest<Bytes>) {
    let mut shared = connection.lock().await;
    if shared.clone().ready().await.is_err() {
        match http2(plan).await {
            Ok(new) => *shared = new,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    *sender = shared.clone();
}

type Http1 = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn http1(plan: &Plan) -> io::Result<Http1> {
    let stream = TcpStream::connect(plan.target).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// One connection of HTTP/1.1, one request after the other.
async fn one_by_one(load: Rc<Load>, mut sender: Http1) {
    let plan = &load.plan;
    while let Some(turn) = load.gate.next().await {
        let keys = load.keys(turn);
        if sender.ready().await.is_err() {
            match http1(plan).await {
                Ok(new) => sender = new,
                Err(error) => {
                    load.lost(&error);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
        }
        let mut request = Request::new(Full::new(plan.question.body(plan.call, &keys)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = hyper::Uri::from_static(Call::Http.path());
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(host) = HeaderValue::from_str(&plan.authority) {
            request.headers_mut().insert(header::HOST, host);
        }
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            answer.into_body().collect().await?;
            Ok::<_, hyper::Error>(status)
        };
        match answer.await {
            Ok(StatusCode::OK) => load.back(turn, &keys, &[Outcome::Admitted], String::new),
            Ok(StatusCode::TOO_MANY_REQUESTS) => load.back(turn, &keys, &[Outcome::Refused], String::new),
            Ok(status) => load.back(turn, &keys, &[], || format!("HTTP status {}", status.as_u16())),
            Err(error) => load.lost(&error),
        }
    }
}
