//! Connections, and the calls on them. All of it lives on one thread.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use h2::Reason;
use h2::client::SendRequest;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Status;

use super::calls::{self, Call};
use super::gate::{Gate, Turn};
use super::keys::Source;
use super::record::{Outcome, Recorder};
use super::{Plan, stream};

/// How much a connection and a call may have on their way here, in bytes.
const WINDOW: u32 = 4 * 1024 * 1024;
/// How long to wait before a connection that was lost is made anew.
pub const PAUSE: Duration = Duration::from_millis(20);

/// How long idle calls are kept from ending while answers are still to come.
const LAST_ANSWERS: Duration = Duration::from_millis(100);

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

    fn back(&self, turn: Turn, keys: &[u64], outcomes: &[Outcome], why: impl FnOnce() -> String) {
        let mut recorder = self.recorder.borrow_mut();
        let understood = outcomes.len() == keys.len();
        if !understood || outcomes.contains(&Outcome::Error) {
            recorder.failures.first.get_or_insert_with(why);
        }
        if understood {
            recorder.back(turn, keys.iter().copied().zip(outcomes.iter().copied()));
        } else {
            recorder.back(turn, keys.iter().map(|key| (*key, Outcome::Error)));
        }
    }

    /// Calls under way.
    fn under_way(&self) -> u64 {
        self.gate.taken().saturating_sub(self.recorder.borrow().ended())
    }
}

/// A call under way: dropped before it is over, it was never answered.
struct UnderWay<'a> {
    load: &'a Load,
    turn: Turn,
    over: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.load.recorder.borrow_mut().never(self.turn.intended);
        }
    }
}

/// A connection to the target.
pub enum Connection {
    Http1(Http1),
    Http2(SendRequest<Bytes>),
}

/// One thread's connections.
pub async fn connect(plan: &Plan, thread: u32, threads: u32) -> io::Result<Vec<Connection>> {
    let count = plan.connections / threads + u32::from(thread < plan.connections % threads);
    let mut connections = Vec::new();
    for _ in 0..count {
        if plan.call == Call::Http {
            for _ in 0..plan.in_flight {
                connections.push(Connection::Http1(http1(plan).await?));
            }
        } else {
            connections.push(Connection::Http2(http2(plan).await?));
        }
    }
    Ok(connections)
}

/// Carries out one thread's share of the plan.
pub async fn load(
    plan: &Plan,
    thread: u32,
    gate: Gate,
    recorder: Recorder,
    connections: Vec<Connection>,
) -> io::Result<Recorder> {
    let source = RefCell::new(Source::new(&plan.keys, plan.seed.wrapping_add(thread.into())));
    let load = Rc::new(Load { plan: plan.clone(), gate, recorder: RefCell::new(recorder), source });
    let mut workers = JoinSet::new();
    for connection in connections {
        match connection {
            Connection::Http1(connection) => {
                workers.spawn_local(one_by_one(Rc::clone(&load), connection));
            }
            Connection::Http2(connection) if plan.call == Call::Stream => {
                workers.spawn_local(stream::messages(Rc::clone(&load), connection));
            }
            Connection::Http2(connection) => {
                let line = Rc::new(tokio::sync::Mutex::new(Line { sender: connection, again_at: None }));
                for _ in 0..plan.in_flight {
                    workers.spawn_local(calls_in_turn(Rc::clone(&load), Rc::clone(&line)));
                }
            }
        }
    }
    let unsent = load.gate.pace().await?;
    if unsent > 0 {
        let mut recorder = load.recorder.borrow_mut();
        load.gate.left(unsent).for_each(|intended| recorder.never(intended));
        recorder.failures.unsent += unsent;
        recorder
            .failures
            .first
            .get_or_insert_with(|| "too many calls were under way, or none could be sent".to_owned());
    }
    // Thousands of idle calls that are told to end are not in the way of the last answers.
    let answered = async {
        while load.under_way() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(LAST_ANSWERS, answered).await;
    load.gate.close();
    let (mut ended, mut over) = (load.recorder.borrow().ended(), false);
    loop {
        let all = async { while workers.join_next().await.is_some() {} };
        if tokio::time::timeout(plan.patience, all).await.is_ok() {
            break;
        }
        let (ended_before, over_before) = (ended, over);
        (ended, over) = (load.recorder.borrow().ended(), load.gate.is_over());
        if over && over_before || ended == ended_before && (over || load.under_way() > 0) {
            break;
        }
    }
    let unanswered = load.under_way();
    if unanswered > 0 {
        let mut recorder = load.recorder.borrow_mut();
        recorder.failures.unanswered += unanswered;
        recorder.failures.first.get_or_insert_with(|| format!("no answer within {} s", plan.patience.as_secs_f64()));
    }
    workers.shutdown().await;
    drop(workers);
    let load = Rc::into_inner(load).ok_or_else(|| io::Error::other("a call is still under way"))?;
    Ok(load.recorder.into_inner())
}

async fn tcp(plan: &Plan) -> io::Result<TcpStream> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    let stream = tokio::time::timeout(plan.patience, TcpStream::connect(plan.target)).await.map_err(|_| late())??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection of HTTP/2.
pub async fn http2(plan: &Plan) -> io::Result<SendRequest<Bytes>> {
    let stream = tcp(plan).await?;
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

/// A connection that several calls share, and make anew when it is lost.
struct Line {
    sender: SendRequest<Bytes>,
    /// It could not be made anew: not to be tried before then.
    again_at: Option<Instant>,
}

/// One of the calls under way on a connection, again and again.
async fn calls_in_turn(load: Rc<Load>, line: Rc<tokio::sync::Mutex<Line>>) {
    let head = head(&load.plan);
    let call = load.plan.call;
    let mut sender = line.lock().await.sender.clone();
    let mut body = Vec::new();
    while let Some(turn) = load.gate.next().await {
        let keys = load.keys(turn);
        let question = load.plan.question.body(call, &keys);
        let mut under_way = UnderWay { load: &load, turn, over: false };
        body.clear();
        let mut status = unary(&mut sender, &head, question.clone(), &mut body).await;
        if status.as_ref().is_err_and(|(sent, _)| !sent) {
            // The server had done with the connection.
            renew(&load.plan, &line, &mut sender).await;
            status = unary(&mut sender, &head, question, &mut body).await;
        }
        under_way.over = true;
        match status {
            Ok(status) => {
                let (outcomes, error) = match call {
                    Call::Batch(_) => calls::batch(&body).unwrap_or_default(),
                    _ => (calls::one(call, &body).into_iter().collect(), None),
                };
                let unknown = load.recorder.borrow().unlimited.is_none();
                if unknown && !outcomes.is_empty() {
                    load.recorder.borrow_mut().unlimited = Some(!calls::is_limited(call, &body));
                }
                let why = || error.or(status).unwrap_or_else(|| "an answer that is not understood".to_owned());
                load.back(turn, &keys, &outcomes, why);
            }
            Err((_, error)) => {
                load.recorder.borrow_mut().lost(1, || error.to_string());
                renew(&load.plan, &line, &mut sender).await;
            }
        }
    }
}

/// Sends one call, and gathers what comes back in `body`; returns the status where that is no good one. An error says
/// whether the call was sent.
async fn unary(
    sender: &mut SendRequest<Bytes>,
    head: &Request<()>,
    question: Bytes,
    body: &mut Vec<u8>,
) -> Result<Option<String>, (bool, h2::Error)> {
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
        return Ok(None);
    }
    let trailers = bytes.trailers().await.map_err(lost)?.unwrap_or_default();
    Ok(Some(status_of(parts.status, &parts.headers, &trailers)))
}

/// How a gRPC call ended.
pub fn status_of(status: StatusCode, headers: &HeaderMap, trailers: &HeaderMap) -> String {
    let said = Status::from_header_map(trailers).or_else(|| Status::from_header_map(headers));
    match said {
        Some(said) if said.message().is_empty() => format!("{:?}", said.code()),
        Some(said) => format!("{:?}: {}", said.code(), said.message()),
        None => format!("HTTP status {}", status.as_u16()),
    }
}

/// Makes a lost connection anew; whoever comes first does it for all of them, and where it fails the others need not try.
#[expect(clippy::disallowed_methods, reason = "a load tool measures the clock of this machine")]
async fn renew(plan: &Plan, line: &tokio::sync::Mutex<Line>, sender: &mut SendRequest<Bytes>) {
    let pause = {
        let mut line = line.lock().await;
        if line.sender.clone().ready().await.is_err() && line.again_at.is_none_or(|at| at <= Instant::now()) {
            match http2(plan).await {
                Ok(new) => (line.sender, line.again_at) = (new, None),
                Err(_) => line.again_at = Some(Instant::now() + PAUSE),
            }
        }
        *sender = line.sender.clone();
        line.again_at
    };
    if let Some(until) = pause {
        tokio::time::sleep(until.saturating_duration_since(Instant::now())).await;
    }
}

/// A connection of HTTP/1.1.
pub type Http1 = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

async fn http1(plan: &Plan) -> io::Result<Http1> {
    let stream = tcp(plan).await?;
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
                    load.recorder.borrow_mut().lost(1, || error.to_string());
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
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        let mut under_way = UnderWay { load: &load, turn, over: false };
        let answer = answer.await;
        under_way.over = true;
        match answer {
            Ok((StatusCode::OK, _)) => load.back(turn, &keys, &[Outcome::Admitted], String::new),
            Ok((StatusCode::TOO_MANY_REQUESTS, _)) => load.back(turn, &keys, &[Outcome::Refused], String::new),
            Ok((status, body)) => load.back(turn, &keys, &[], || problem(status, &body)),
            Err(error) => load.recorder.borrow_mut().lost(1, || error.to_string()),
        }
    }
}

/// What an HTTP answer says is wrong (RFC 9457).
fn problem(status: StatusCode, body: &[u8]) -> String {
    let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &said["errors"][0];
    let parts = [&first["pointer"], &first["detail"], &said["detail"], &said["title"]];
    let parts = [format!("HTTP status {}", status.as_u16())]
        .into_iter()
        .chain(parts.iter().filter_map(|part| part.as_str()).map(str::to_owned));
    parts.collect::<Vec<_>>().join(": ")
}
