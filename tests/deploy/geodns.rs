//! Where users of four places are sent, by a real gdnsd that asks real load balancers whether their region is ready.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::files::{LOAD_BALANCERS, REGIONS, deploy};
use crate::namespace;
use crate::wait::wait_for;

/// A program that ends with the test.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        Self(command.stderr(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts both load balancers of a region.
fn load_balancers(region: usize) -> Vec<Program> {
    let start = |address: &str| {
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "../haproxy/common.cfg", "-f", "haproxy.cfg"]).env("ADDRESS", address);
        Program::start(command.current_dir(deploy(REGIONS[region])))
    };
    LOAD_BALANCERS[region].map(start).into()
}

/// Starts two gateways of a region that say whether they are ready.
#[expect(clippy::disallowed_methods, reason = "the threads end with the test process")]
fn gateways(region: usize) -> Arc<AtomicBool> {
    let ready = Arc::new(AtomicBool::new(true));
    for host in [41, 42] {
        let listener = TcpListener::bind((format!("10.{}.0.{host}", region + 1).as_str(), 10_000)).unwrap();
        let ready = Arc::clone(&ready);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
                while head.next().is_some_and(|line| !line.is_empty()) {}
                let status = if ready.load(Ordering::Relaxed) { "200 OK" } else { "503 Service Unavailable" };
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = (&stream).write_all(head.as_bytes());
            }
        });
    }
    ready
}

/// Starts gdnsd with the files of `deploy/regions/geodns`, and with folders of its own.
fn gdnsd(folder: &Path) -> Program {
    let copied = Command::new("cp").arg("-r").arg(deploy("geodns")).arg(folder.join("etc")).status();
    assert!(copied.unwrap().success());
    let config = std::fs::read_to_string(folder.join("etc/config")).unwrap();
    let folders = format!("options => {{\n  run_dir => {0}/run\n  state_dir => {0}/state", folder.display());
    std::fs::write(folder.join("etc/config"), config.replacen("options => {", &folders, 1)).unwrap();
    Program::start(Command::new("gdnsd").arg("-c").arg(folder.join("etc")).arg("start"))
}

/// The regions whose load balancers a user in this network gets, or nothing without an answer.
fn answers(subnet: &str, name: &str) -> Vec<&'static str> {
    let mut dig = Command::new("dig");
    dig.args(["@127.0.0.1", "+short", "+tries=1", "+time=1", &format!("+subnet={subnet}"), name]);
    let answer = String::from_utf8(dig.output().expect("dig must be installed (bind9-dnsutils)").stdout).unwrap();
    let answered: Vec<&str> = answer.lines().collect();
    let all = |region: &usize| LOAD_BALANCERS[*region].iter().all(|address| answered.contains(address));
    let regions: Vec<&str> = (0..REGIONS.len()).filter(all).map(|region| REGIONS[region]).collect();
    if regions.len() * 2 == answered.len() { regions } else { Vec::new() }
}

const CALIFORNIA: [&str; 2] = ["192.0.2.0/26", "2001:db8:1:7::/64"];
const VIRGINIA: [&str; 2] = ["192.0.2.64/26", "2001:db8:2:7::/64"];
const LONDON: [&str; 2] = ["198.51.100.7/32", "2001:db8:3:7::/64"];
const TOKYO: [&str; 2] = ["203.0.113.0/25", "2001:db8:4:7::/64"];
const ELSEWHERE: [&str; 2] = ["100.64.0.0/24", "2001:db8:99::/48"];

/// Waits until users of these places get these regions.
fn expect(users: &[([&str; 2], &str)]) {
    for (subnets, region) in users {
        for subnet in subnets {
            wait_for(&format!("{region} as the answer for {subnet}"), || {
                (answers(subnet, "api.example.com") == [*region]).then_some(())
            });
        }
    }
}

#[test]
fn users_get_the_nearest_region_that_is_ready() {
    let public = LOAD_BALANCERS.concat().into_iter().map(|address| format!("{address}/32"));
    let gateway_addresses = (1..=3).flat_map(|region| [41, 42].map(|host| format!("10.{region}.0.{host}/32")));
    let addresses: Vec<String> = public.chain(gateway_addresses).collect();
    if !namespace::enter("geodns::users_get_the_nearest_region_that_is_ready", &addresses) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let ready = [0, 1, 2].map(gateways);
    let mut running = [0, 1, 2].map(load_balancers);
    let _gdnsd = gdnsd(folder.path());
    let nearest = [(CALIFORNIA, "us-east"), (VIRGINIA, "us-east"), (LONDON, "eu-west"), (TOKYO, "ap-northeast")];
    expect(&nearest);
    expect(&[(ELSEWHERE, "us-east")]);
    assert_eq!(answers(LONDON[0], "api-ap-northeast.example.com"), ["ap-northeast"], "a name of one region");

    // Without its load balancers, us-east disappears, and each place gets its own next nearest region.
    running[0].clear();
    expect(&[(CALIFORNIA, "ap-northeast"), (VIRGINIA, "eu-west"), (LONDON, "eu-west"), (TOKYO, "ap-northeast")]);
    // One load balancer is enough.
    running[0] = load_balancers(0);
    running[1].pop();
    expect(&[(CALIFORNIA, "us-east"), (VIRGINIA, "us-east")]);
    wait_for("the load balancer that is left in eu-west", || {
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "+short", "+subnet=198.51.100.7/32", "api.example.com"]);
        (dig.output().unwrap().stdout == b"198.51.100.250\n").then_some(())
    });
    // A load balancer whose gateways are not ready says that its region is not.
    ready[1].store(false, Ordering::Relaxed);
    expect(&[(LONDON, "us-east"), (TOKYO, "ap-northeast")]);
    ready[1].store(true, Ordering::Relaxed);
    running[1] = load_balancers(1);
    expect(&nearest);
}
