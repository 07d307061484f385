//! Records in Redis that no node wrote.

use crate::node::wait_for;
use crate::operate::{CHECK, Folder};
use crate::servers::{SingleServer, redis_cli};

#[test]
fn a_key_of_another_type_fails_alone() {
    let (folder, redis) = (Folder::new(), SingleServer::start(&[]));
    let node = folder.start_node(&redis.url(), &[]);
    let check = |user: &str| node.check(&format!(r#"{{"domain":"d","attributes":{{"user":"{user}"}}}}"#)).json();
    assert_eq!(check("a")["degraded"], false);
    let key = redis_cli(redis.server.port, &["--scan", "--pattern", "*/a"]);
    redis_cli(redis.server.port, &["del", &key]);
    assert_eq!(redis_cli(redis.server.port, &["lpush", &key, "x"]), "1");
    assert_eq!(check("a")["degraded"], true);
    for user in ["b", "c", "d"] {
        assert_eq!(check(user)["degraded"], false);
    }
    assert_eq!(redis_cli(redis.server.port, &["type", &key]), "list", "the foreign key is not changed");
    redis_cli(redis.server.port, &["del", &key]);
    assert_eq!(check("a")["degraded"], false);
}

#[test]
fn ready_names_a_record_of_the_region_that_has_a_wrong_type() {
    let (folder, redis) = (Folder::new(), SingleServer::start(&[]));
    let node = folder.start_node(&redis.url(), &[]);
    // The fence is read with the counters, so somebody must ask.
    let store = || {
        node.check(r#"{"domain":"d","attributes":{"user":"u"},"hits":0}"#);
        node.get("/ready").json()["store"].as_str().unwrap().to_owned()
    };
    for record in ["constants", "members", "fence"] {
        let key = format!("tidegate:us-east:{{region}}{record}");
        let replace = "redis.call('DEL', KEYS[1]) return redis.call('LPUSH', KEYS[1], 'x')";
        assert_eq!(redis_cli(redis.server.port, &["EVAL", replace, "1", &key]), "1");
        wait_for("/ready to name the error", || {
            let store = store();
            (store.contains("WRONGTYPE") && (record == "fence" || store.contains(&key))).then_some(())
        });
        assert_eq!(node.metric("tidegate_store_ok "), 0.0);
        assert_eq!(node.get("/ready").status, 200, "otherwise all nodes would become unready at once");
        assert_eq!(redis_cli(redis.server.port, &["TYPE", &key]), "list", "the foreign record is not changed");
        redis_cli(redis.server.port, &["DEL", &key]);
        wait_for("the error to end", || (store() == "ok").then_some(()));
    }
    assert_eq!(node.check(CHECK).json()["degraded"], false);
}
