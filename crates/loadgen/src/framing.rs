//! The frames of gRPC messages: a compression flag, the length of the message, and the message.

use prost::Message;

/// Appends `message` in a gRPC frame to `out`.
pub fn push_frame(message: &impl Message, out: &mut Vec<u8>) {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    out.push(0);
    out.extend_from_slice(&length.to_be_bytes());
    // Encoding cannot fail: a vector grows as needed.
    let _ = message.encode(out);
}

/// Returns the first message of `bytes` and the length of its frame, or `None` if the frame is incomplete.
pub fn first_message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    Some((rest.get(..length)?, 5 + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::tidegate::v1::CheckResponse;

    #[test]
    fn an_incomplete_frame_has_no_message() {
        let mut frame = Vec::new();
        push_frame(&CheckResponse { allowed: true, ..CheckResponse::default() }, &mut frame);
        assert_eq!(first_message(&frame), Some((&frame[5..], frame.len())));
        for cut in 0..frame.len() {
            assert_eq!(first_message(&frame[..cut]), None);
        }
    }
}
