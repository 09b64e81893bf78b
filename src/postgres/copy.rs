//! Reads `COPY … TO STDOUT (FORMAT binary)` with one column
//! (<https://www.postgresql.org/docs/current/sql-copy.html>, "Binary Format").

use bytes::{Buf as _, Bytes, BytesMut};

/// A value of the one column; `None` is NULL.
pub(super) type Value = Option<Bytes>;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Flags that a reader must understand or refuse: bits 16 to 31.
const CRITICAL_FLAGS: u32 = 0xffff_0000;

/// Takes the stream apart, wherever its messages are cut.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Bytes,
    state: State,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Header,
    Rows,
    Ended,
}

impl Decoder {
    /// Adds what came next.
    pub(super) fn push(&mut self, chunk: Bytes) {
        if self.buffer.is_empty() {
            self.buffer = chunk;
        } else {
            let mut joined = BytesMut::with_capacity(self.buffer.len() + chunk.len());
            joined.extend_from_slice(&self.buffer);
            joined.extend_from_slice(&chunk);
            self.buffer = joined.freeze();
        }
    }

    /// The next value that has come completely.
    pub(super) fn next_value(&mut self) -> Result<Option<Value>, &'static str> {
        if self.state == State::Header && !self.header()? {
            return Ok(None);
        }
        if self.state == State::Ended {
            return if self.buffer.is_empty() {
                Ok(None)
            } else {
                Err("something follows the trailer")
            };
        }
        let mut peek = &self.buffer[..];
        if peek.len() < 2 {
            return Ok(None);
        }
        match peek.get_i16() {
            -1 => {
                self.buffer.advance(2);
                self.state = State::Ended;
                self.next_value()
            }
            1 if peek.len() < 4 => Ok(None),
            1 => match peek.get_i32() {
                -1 => {
                    self.buffer.advance(6);
                    Ok(Some(None))
                }
                length => {
                    let length =
                        usize::try_from(length).map_err(|_| "a value has a negative length")?;
                    if peek.len() < length {
                        return Ok(None);
                    }
                    self.buffer.advance(6);
                    Ok(Some(Some(self.buffer.split_to(length))))
                }
            },
            _ => Err("a row does not have exactly one column"),
        }
    }

    fn header(&mut self) -> Result<bool, &'static str> {
        let mut peek = &self.buffer[..];
        if peek.len() < SIGNATURE.len() + 8 {
            return Ok(false);
        }
        if !peek.starts_with(SIGNATURE) {
            return Err("the stream does not begin as a binary COPY");
        }
        peek.advance(SIGNATURE.len());
        if peek.get_u32() & CRITICAL_FLAGS != 0 {
            return Err("the stream's header has flags that are not known");
        }
        let extension =
            usize::try_from(peek.get_u32()).map_err(|_| "the stream's header is too long")?;
        if peek.len() < extension {
            return Ok(false);
        }
        self.buffer.advance(SIGNATURE.len() + 8 + extension);
        self.state = State::Rows;
        Ok(true)
    }

    /// Whether the trailer has come: without it, rows may be missing.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::Ended && self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(values: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut stream = [SIGNATURE, &[0; 8]].concat();
        for value in values {
            stream.extend(1_i16.to_be_bytes());
            match value {
                None => stream.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    stream.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
                    stream.extend(value);
                }
            }
        }
        stream.extend((-1_i16).to_be_bytes());
        stream
    }

    /// The values, and whether the stream was complete.
    type Decoded = (Vec<Option<Vec<u8>>>, bool);

    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<Decoded, &'static str> {
        let (mut decoder, mut values) = (Decoder::default(), Vec::new());
        for chunk in chunks {
            decoder.push(Bytes::copy_from_slice(chunk));
            while let Some(value) = decoder.next_value()? {
                values.push(value.map(|bytes| bytes.to_vec()));
            }
        }
        Ok((values, decoder.is_complete()))
    }

    proptest! {
        #[test]
        fn values_come_back_however_the_stream_is_cut(
            values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)), 0..9),
            size in 1_usize..40,
        ) {
            let stream = encode(&values);
            prop_assert_eq!(decode(stream.chunks(size)), Ok((values, true)));
        }

        #[test]
        fn a_stream_that_breaks_off_is_not_complete(values in proptest::collection::vec(Just(Some(vec![7_u8])), 0..4), cut in 1_usize..20) {
            let stream = encode(&values);
            let cut = stream.len().saturating_sub(cut);
            prop_assert!(!decode([&stream[..cut]]).unwrap().1);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let two_columns = [SIGNATURE, &[0; 8], &2_i16.to_be_bytes()].concat();
        assert!(
            decode([&two_columns[..]])
                .unwrap_err()
                .contains("exactly one column")
        );
        let negative = [
            SIGNATURE,
            &[0; 8],
            &1_i16.to_be_bytes(),
            &(-2_i32).to_be_bytes(),
        ]
        .concat();
        assert!(decode([&negative[..]]).unwrap_err().contains("negative"));
        let flagged = [SIGNATURE, &[0, 1, 0, 0, 0, 0, 0, 0]].concat();
        assert!(decode([&flagged[..]]).unwrap_err().contains("flags"));
        assert!(decode([&[b'x'; 19][..]]).unwrap_err().contains("begin"));
        let mut more = encode(&[]);
        more.push(0);
        assert!(decode([&more[..]]).unwrap_err().contains("trailer"));
    }
}
