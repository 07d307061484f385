//! The API of the installed Envoy: its program contains the descriptors of its API. A newer Envoy may bring fields that
//! reverse the meaning of a call.

use std::collections::BTreeSet;

use prost::Message as _;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost_types::FileDescriptorProto;

use crate::envoy::envoy;
use crate::support::api_lines::lines;

const FILES: [&str; 4] = [
    "envoy/service/ratelimit/v3/rls.proto",
    "envoy/extensions/common/ratelimit/v3/ratelimit.proto",
    "envoy/type/v3/ratelimit_unit.proto",
    "envoy/config/core/v3/base.proto",
];

/// The descriptor of a file of the API. It begins with the name of the file and ends with its syntax.
fn descriptor(program: &[u8], name: &str) -> FileDescriptorProto {
    const SYNTAX: u32 = 12;
    let start = [&[10, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
    let at = program.windows(start.len()).position(|bytes| bytes == start).expect(name);
    let mut rest = &program[at..];
    loop {
        let (number, wire_type) = decode_key(&mut rest).unwrap();
        skip_field(wire_type, number, &mut rest, DecodeContext::default()).unwrap();
        if number == SYNTAX {
            break;
        }
    }
    FileDescriptorProto::decode(&program[at..program.len() - rest.len()]).unwrap()
}

#[test]
fn the_api_of_the_installed_envoy_is_the_one_that_is_documented() {
    let program = std::fs::read(envoy()).unwrap();
    let installed: BTreeSet<String> = FILES.iter().flat_map(|name| lines(&descriptor(&program, name))).collect();
    let installed = installed.into_iter().map(|line| line + "\n").collect::<String>();
    let known = include_str!("envoy_api.txt");
    assert_eq!(installed, known, "update tests/gateways/envoy_api.txt, proto/envoy/ and docs/gateways/envoy.md");
}
