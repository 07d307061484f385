//! The whole path of a request in each of three regions that run on this machine: the DNS server, a load balancer,
//! Envoy, a node, Redis, and the application behind Envoy. `scripts/regions` runs them.

use crate::files::{LOAD_BALANCERS, REGIONS};
use crate::three_regions::{PLACES, Regions};
use crate::wait::wait_for;

/// The limit of `deploy/regions/rules.yaml`.
const LIMIT: u64 = 100;
const OVER: u64 = 5;

impl Regions {
    /// The load balancers that a user at this address gets from the DNS server of a region.
    fn resolve(&self, user: &str, server: usize) -> Vec<String> {
        let server = format!("@{}253", LOAD_BALANCERS[server][0].trim_end_matches("250"));
        let dig = ["dig", "+short", "+tries=1", "+time=1", "-b", user, &server, "api.example.com"];
        let mut addresses: Vec<String> = self.within("users", &dig).lines().map(ToOwned::to_owned).collect();
        addresses.sort();
        addresses
    }

    /// Sends requests from this address to a load balancer, one after the other. Returns how many were admitted and how
    /// many were denied.
    fn send(&self, from: &str, to: &str, name: &str, count: u64) -> (u64, u64) {
        let (header, url) = (format!("x-user: {name}"), format!("http://{to}/[1-{count}]"));
        let curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\n", "--interface", from, "-H", &header, &url];
        let statuses = self.within("users", &curl);
        let with = |status: &str| statuses.lines().filter(|line| *line == status).count() as u64;
        let (admitted, denied) = (with("200"), with("429"));
        assert_eq!(admitted + denied, count, "{name}: {statuses}");
        (admitted, denied)
    }

    /// What the parts of a region have counted so far.
    fn counted(&self, region: usize) -> Counted {
        let network = format!("10.{}.0", region + 1);
        let get = |url: &str| self.within(REGIONS[region], &["curl", "-s", url]);
        let sum = |text: &str, name: &str| {
            let values =
                text.lines().filter_map(|line| line.strip_prefix(name)?.trim_matches([':', ' ']).parse::<u64>().ok());
            values.sum::<u64>()
        };
        let nodes: String = [11, 12].map(|host| get(&format!("http://{network}.{host}:8080/metrics"))).concat();
        let envoy = get("http://127.0.0.1:9901/stats?filter=application.ratelimit");
        let application = get(&format!("http://{network}.51:8001/;csv"));
        let answers = application.lines().find(|line| line.starts_with("answers,BACKEND,")).unwrap();
        Counted {
            nodes: (
                sum(&nodes, "tidegate_checks_total{domain=\"edge\",outcome=\"allowed\"}"),
                sum(&nodes, "tidegate_checks_total{domain=\"edge\",outcome=\"refused\"}"),
            ),
            envoy: (
                sum(&envoy, "cluster.application.ratelimit.ok"),
                sum(&envoy, "cluster.application.ratelimit.over_limit"),
            ),
            application: answers.split(',').nth(7).unwrap().parse().unwrap(),
        }
    }

    /// Whether the Redis Cluster of a region has a counter of this user.
    fn has_counter(&self, region: usize, user: &str) -> bool {
        let address = format!("10.{}.0.21", region + 1);
        let keys = |port| {
            let scan = ["redis-cli", "-h", &address, "-p", port, "--scan", "--pattern", &format!("*{user}*")];
            self.within(REGIONS[region], &scan)
        };
        ["7001", "7002", "7003"].into_iter().any(|port| !keys(port).trim().is_empty())
    }
}

/// Admitted and denied requests.
#[derive(Debug)]
struct Counted {
    nodes: (u64, u64),
    envoy: (u64, u64),
    application: u64,
}

#[test]
#[ignore = "runs 60 processes for some minutes: scripts/test --deploy each_region --ignored"]
fn each_region_serves_its_users_and_all_regions_count_them_together() {
    let Some(regions) = Regions::start() else { return };
    for (place, user, region) in PLACES {
        // Every DNS server knows the nearest region by the address of the user.
        for server in 0..REGIONS.len() {
            wait_for("the answers of the DNS servers", || {
                (regions.resolve(user, server) == LOAD_BALANCERS[region]).then_some(())
            });
        }
        let before = regions.counted(region);
        let sent = regions.send(user, &regions.resolve(user, region)[1], place, LIMIT + OVER);
        let after = regions.counted(region);
        assert_eq!(sent, (LIMIT, OVER), "{place}");
        assert_eq!(after.application - before.application, LIMIT, "{place}: requests that the application answered");
        let difference = |after: (u64, u64), before: (u64, u64)| (after.0 - before.0, after.1 - before.1);
        assert_eq!(difference(after.envoy, before.envoy), sent, "{place}: what Envoy let pass and denied");
        assert_eq!(difference(after.nodes, before.nodes), sent, "{place}: what the nodes decided");
        assert!(regions.has_counter(region, place), "{place}: a counter in Redis");
    }

    // A user who spent the limit in us-east gets much less than another one in eu-west, until eu-west hears of it.
    let mut admitted = 0;
    wait_for("a denial in eu-west", || {
        let (more, denied) = regions.send("198.51.100.10", LOAD_BALANCERS[1][0], "california", 1);
        admitted += more;
        (denied > 0).then_some(())
    });
    assert!(admitted < LIMIT, "a user has the whole limit again in the next region");

    // Users of a region that is cut off get the next nearest one.
    regions.script(&["link", "eu-west", "all", "cut", "--both"]);
    wait_for("us-east as the answer in London", || {
        (regions.resolve("198.51.100.10", 0) == LOAD_BALANCERS[0]).then_some(())
    });
    let (admitted, _) = regions.send("198.51.100.10", LOAD_BALANCERS[0][0], "a user from London", 1);
    assert_eq!(admitted, 1);
    regions.script(&["link", "eu-west", "all", "heal", "--both"]);
    wait_for("eu-west as the answer in London", || {
        (regions.resolve("198.51.100.10", 0) == LOAD_BALANCERS[1]).then_some(())
    });
    let status = regions.script(&["status"]);
    assert!(status.contains("pg-ap-northeast: replica streaming") && !status.contains(" down"), "{status}");
}
