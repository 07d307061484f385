//! Users near each region who send requests to its load balancers all the time, and what they are answered.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::files::LOAD_BALANCERS;
use crate::http::Client;
use crate::three_regions::{PLACES, Regions};
use crate::wait::elapsed;

/// Each sends one request after the other to one load balancer.
const CLIENTS_OF_A_REGION: usize = 2;
/// From one request of a client to the next.
const PACE: Duration = Duration::from_millis(50);

/// What a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Admitted,
    Denied,
    /// The gateway got no answer from a node, and let the request pass.
    Unlimited,
    /// There was no answer of the application nor a denial.
    Failed,
}

/// A request of a user and its outcome. Times are in milliseconds since the epoch, the clock of all stores here.
#[derive(Clone, Debug)]
pub struct Answer {
    pub user: Arc<str>,
    pub region: usize,
    pub sent_ms: u64,
    pub answered_ms: u64,
    pub outcome: Outcome,
}

/// The clock of users and stores.
#[expect(clippy::disallowed_methods, reason = "the clock of the users")]
pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Requests of users, until it is stopped.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Answer>>>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Clients near each of these regions send requests of all these users in turn.
    #[expect(clippy::disallowed_methods, reason = "the threads are joined when the traffic stops")]
    pub fn start(regions: &Regions, near: &[usize], users: &[String]) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Answer>>>::default());
        let users: Vec<Arc<str>> = users.iter().map(|user| user.as_str().into()).collect();
        let mut clients = Vec::new();
        for (region, number) in near.iter().flat_map(|region| (0..CLIENTS_OF_A_REGION).map(|n| (*region, n))) {
            let enter = regions.entrance("users");
            let (users, stop, answers) = (users.clone(), Arc::clone(&stop), Arc::clone(&answers));
            // Clients do not send the requests of the same user at once.
            let first = number * users.len() / CLIENTS_OF_A_REGION;
            clients.push(std::thread::spawn(move || {
                enter();
                let mut client = user_near(region, number);
                for user in users.iter().cycle().skip(first) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let next = elapsed() + PACE;
                    let answer = ask(&mut client, region, user);
                    answers.lock().unwrap().push(answer);
                    std::thread::park_timeout(next.saturating_sub(elapsed()));
                }
            }));
        }
        Self { stop, answers, clients }
    }

    /// Ends the traffic after the requests that are on their way. Returns what all were answered.
    pub fn stop(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
        std::mem::take(&mut self.answers.lock().unwrap())
    }
}

fn user_near(region: usize, number: usize) -> Client {
    let (_, from, _) = PLACES.into_iter().find(|(_, _, nearest)| *nearest == region).unwrap();
    let to: Ipv4Addr = LOAD_BALANCERS[region][number % 2].parse().unwrap();
    Client::new(from.parse().unwrap(), SocketAddr::from((to, 80)))
}

fn ask(client: &mut Client, region: usize, user: &Arc<str>) -> Answer {
    let sent_ms = now_ms();
    let response = client.send(&format!("GET / HTTP/1.1\r\nx-user: {user}"), "");
    let outcome = match response.as_ref().map(|response| (response.status, response.header("x-ratelimit-limit"))) {
        Ok((200, Some(_))) => Outcome::Admitted,
        Ok((200, None)) => Outcome::Unlimited,
        Ok((429, _)) => Outcome::Denied,
        Ok(_) | Err(_) => Outcome::Failed,
    };
    Answer { user: Arc::clone(user), region, sent_ms, answered_ms: now_ms(), outcome }
}
