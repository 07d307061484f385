//! Commits a rule book to a git work tree, with the `git` program.

use std::io;
use std::path::Path;
use std::process::{Command, Output};

/// The file in the work tree.
const FILE: &str = "rules.yaml";

/// Writes the rules and commits them. False if the last commit has them already.
///
/// # Errors
/// Why nothing was committed. The file stays as it was if it has changes that are not committed.
pub fn commit(folder: &Path, yaml: &str, revision: u64) -> Result<bool, String> {
    let inside = git(folder, &["rev-parse", "--is-inside-work-tree"])?;
    if inside.trim() != "true" {
        return Err("expected a git work tree".to_owned());
    }
    if !git(folder, &["status", "--porcelain", "--ignored", "--", FILE])?.trim().is_empty() {
        return Err(format!("{FILE} has changes that are not committed"));
    }
    std::fs::write(folder.join(FILE), yaml).map_err(|error| format!("{FILE}: {error}"))?;
    git(folder, &["add", "--", FILE])?;
    if git(folder, &["status", "--porcelain", "--", FILE])?.trim().is_empty() {
        return Ok(false);
    }
    let message = format!("Put the rules of revision {revision} in force");
    match git(folder, &["commit", "--quiet", "-m", &message, "--", FILE]) {
        Ok(_) => Ok(true),
        Err(error) => {
            // The next export must not find a file that it has written itself.
            let restored = git(folder, &["reset", "--quiet", "--", FILE]).and_then(|_| {
                match git(folder, &["ls-files", "--", FILE])?.trim().is_empty() {
                    true => std::fs::remove_file(folder.join(FILE)).map_err(|error| error.to_string()),
                    false => git(folder, &["checkout", "--quiet", "--", FILE]).map(drop),
                }
            });
            match restored {
                Ok(()) => Err(error),
                Err(other) => Err(format!("{error}; {other}")),
            }
        }
    }
}

fn git(folder: &Path, arguments: &[&str]) -> Result<String, String> {
    let run: io::Result<Output> = Command::new("git").arg("-C").arg(folder).args(arguments).output();
    let run = run.map_err(|error| format!("git: {error}"))?;
    if run.status.success() {
        return Ok(String::from_utf8_lossy(&run.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&run.stderr);
    Err(format!("git {}: {}", arguments.first().unwrap_or(&""), why.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        git(folder.path(), &["init", "--quiet"]).unwrap();
        for (name, value) in [("user.name", "Test"), ("user.email", "test@example.org"), ("commit.gpgsign", "false")] {
            git(folder.path(), &["config", name, value]).unwrap();
        }
        folder
    }

    #[test]
    fn a_book_is_committed_with_its_revision_and_once() {
        let folder = repository();
        assert_eq!(commit(folder.path(), "version: 1\n", 7), Ok(true));
        assert_eq!(commit(folder.path(), "version: 1\n", 8), Ok(false));
        assert_eq!(commit(folder.path(), "version: 1 # new\n", 9), Ok(true));
        let log = git(folder.path(), &["log", "--format=%s"]).unwrap();
        assert_eq!(log, "Put the rules of revision 9 in force\nPut the rules of revision 7 in force\n");
    }

    #[test]
    fn changes_of_a_person_are_not_overwritten() {
        let folder = repository();
        let file = folder.path().join(FILE);
        std::fs::write(&file, "mine").unwrap();
        assert!(commit(folder.path(), "version: 1\n", 7).unwrap_err().contains("not committed"));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
        let no_repository = tempfile::tempdir().unwrap();
        assert!(commit(no_repository.path(), "version: 1\n", 7).is_err());
        assert!(!no_repository.path().join(FILE).exists());
    }

    #[test]
    fn a_commit_that_fails_leaves_no_file_behind() {
        let folder = repository();
        let hook = folder.path().join(".git/hooks/pre-commit");
        std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
        std::fs::write(&hook, "#!/bin/sh\nexit 1\n").unwrap();
        std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(commit(folder.path(), "version: 1\n", 7).is_err());
        assert!(!folder.path().join(FILE).exists());
    }
}
