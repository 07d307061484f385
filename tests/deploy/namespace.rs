//! A network of its own for a test, in which it has whatever addresses it likes.

use std::process::Command;

/// The environment variable that is set inside.
const INSIDE: &str = "TIDEGATE_TEST_IN_NAMESPACE";

/// Returns true inside the namespace. Outside of it, runs the test with this name again in a new namespace whose
/// loopback interface has these addresses, and returns false.
pub fn enter(test: &str, addresses: &[String]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let add = addresses.iter().map(|address| format!(" && ip address add {address} dev lo")).collect::<String>();
    let program = format!("ip link set lo up{add} && exec \"$0\" \"$@\"");
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--net", "--map-root-user", "sh", "-c", &program]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        println!("{test}: NOT RUN, this machine does not allow network namespaces");
        return false;
    }
    let mut again = unshare();
    again.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]).env(INSIDE, "yes");
    assert!(again.status().unwrap().success(), "{test} failed in its namespace");
    false
}
