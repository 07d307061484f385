//! Backups, and clusters that are made anew from them.

use crate::support::plane::Plane;
use crate::support::wait::wait_for;

const OWNER: &str = "the-token-of-the-owner-in-this-test";
const RULES: &str = "
version: 1
domains:
  - domain: api
    default: deny
    limits:
      - { name: a, match: { path: { prefix: /v1 } }, per: [user], limit: 5, window: 1m }
      - { name: b, per: [], limit: 100, window: 1s, algorithm: token_bucket, burst: 200 }
";

#[test]
fn a_cluster_that_is_lost_comes_back_from_a_backup_with_the_same_rules() {
    // The tokens of PostgreSQL do not count while it is away.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("owner.token");
    std::fs::write(&file, OWNER).unwrap();
    let mut plane = Plane::start_with(3, 0, &format!("admin: {{ token_file: {} }}", file.display()));
    plane.token = OWNER.to_owned();
    plane.apply(0, RULES);
    let (revision, hash) = plane.agree(plane.rules(0).0);
    let file = plane.folder().join("backup").to_str().unwrap().to_owned();
    plane.command(1, &["cluster", "backup", &file]);
    for at in 0..3 {
        plane.kill(at);
        std::fs::remove_dir_all(plane.folder().join(format!("n{at}"))).unwrap();
    }
    // PostgreSQL is away, so that only the backup can say what the rules were.
    for port in plane.postgres.ports() {
        plane.postgres.signal(port, "STOP");
    }
    for at in 0..3 {
        plane.launch(at);
    }
    let voters: Vec<String> = plane.seats.iter().map(|seat| format!("{}={}", seat.name, seat.cluster)).collect();
    let voters = voters.join(",");
    wait_for("the new cluster", || plane.try_command(0, &["cluster", "init", "--voters", &voters]).ok());
    wait_for("the restore", || plane.try_command(0, &["cluster", "restore", &file]).ok());
    let (restored, same) = plane.agree(revision);
    assert_eq!(same, hash);
    assert!(restored >= revision);
    for port in plane.postgres.ports() {
        plane.postgres.signal(port, "CONT");
    }
    plane.apply(2, &RULES.replace("limit: 5", "limit: 6"));
    assert_ne!(plane.agree(restored + 1).1, hash);
}
