//! The store, as the Raft library tests it, and as damage shows it.

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tidegate::raft::disk::{FILE, RedbDisk};
use tidegate::raft::log::Log;
use tidegate::raft::machine::Machine;
use tidegate::raft::seal::{EncryptionKeys, Seal};
use tidegate::raft::store::Store;
use tidegate::raft::types::TypeConfig;

use crate::cluster::metrics;

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const NEW_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

struct Builder(Seal);

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<u64>> {
        let folder = TempDir::new().unwrap();
        let disk = Arc::new(RedbDisk::open(folder.path()).unwrap());
        let (store, _) = Store::open(disk, self.0.clone(), "test", 1, "test").unwrap();
        let machine = Machine::open(store.clone(), metrics()).unwrap();
        Ok((folder, Log(store), machine))
    }
}

#[test]
fn the_librarys_suite_passes_on_plain_files() {
    Suite::test_all(Builder(Seal::Checksum)).unwrap();
}

#[test]
fn the_librarys_suite_passes_on_encrypted_files() {
    Suite::test_all(Builder(Seal::Encryption(EncryptionKeys::parse(KEY).unwrap()))).unwrap();
}
