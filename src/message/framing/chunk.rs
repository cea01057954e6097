//! The chunked coding: RFC 9112, 7.1.
//!
//! Chunk extensions and trailers are checked, bounded and dropped: nobody behind us uses them, and both have been used
//! to smuggle (an LF in an extension) or to cost memory.

use super::{Fault, is_token, is_value};

/// Bytes of all chunk extensions of one body.
const MAX_EXTENSIONS: usize = 4 * 1024;
/// Bytes of all trailer fields of one body.
const MAX_TRAILERS: usize = 8 * 1024;
/// Digits of a chunk size: what 64 bits hold, leading zeros included.
const MAX_DIGITS: u8 = 16;

/// The progress through one chunked body. `Default` is the start.
#[derive(Debug, Clone, Default)]
pub struct Chunks {
    state: State,
    size: u64,
    digits: u8,
    extensions: usize,
    trailers: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    /// White space after the size, which only an extension may follow.
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a line of the trailer section.
    Line,
    Name,
    Value,
    ValueLf,
    EndLf,
    End,
}

/// What [`Chunks::decode`] did to the bytes it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of data, now at the front.
    pub data: usize,
    /// Bytes taken; what follows them is not of this body.
    pub used: usize,
}

impl Chunks {
    /// Whether the body is complete.
    pub fn is_end(&self) -> bool {
        self.state == State::End
    }

    /// Takes the chunked coding off where the bytes lie: moves the data among them to the front and returns how much it
    /// is, and how many bytes were taken in all. That is all of them, unless the body is complete.
    ///
    /// # Errors
    /// The rule that the coding breaks; the bytes are of no use then.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Fault> {
        let mut done = Decoded { data: 0, used: 0 };
        while self.state != State::End
            && let Some(rest @ [first, ..]) = bytes.get(done.used..)
        {
            let is_data = self.state == State::Data;
            let len = self.take(*first, rest)?;
            if is_data {
                bytes.copy_within(done.used..done.used + len, done.data);
                done.data += len;
            }
            done.used += len;
        }
        Ok(done)
    }

    /// Takes one byte or, of data, as many as there are.
    fn take(&mut self, byte: u8, rest: &[u8]) -> Result<usize, Fault> {
        self.state = match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
            (State::Size, b';') if self.digits > 0 => State::Extension,
            (State::Size, b' ' | b'\t') if self.digits > 0 => State::Space,
            (State::Size, _) => self.digit(byte)?,
            (State::Space, b' ' | b'\t') => State::Space,
            (State::Space, b';') => State::Extension,
            (State::Space, _) => return Err(Fault::bad("white space after a chunk size")),
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, _) if is_value(&[byte]) => State::Extension,
            (State::Extension, _) => return Err(Fault::bad("control character in a chunk extension")),
            (State::SizeLf, b'\n') if self.size == 0 => State::Line,
            (State::SizeLf, b'\n') => State::Data,
            (State::SizeLf, _) => return Err(Fault::bad("bare CR after a chunk size")),
            (State::Data, _) => {
                let n = usize::try_from(self.size).unwrap_or(usize::MAX).min(rest.len());
                self.size -= n as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                return Ok(n);
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.digits = 0;
                State::Size
            }
            (State::DataCr | State::DataLf, _) => return Err(Fault::bad("chunk longer than its size")),
            (State::Line, b'\r') => State::EndLf,
            (State::Line | State::Name, _) if is_token(&[byte]) => State::Name,
            (State::Name, b':') => State::Value,
            (State::Line | State::Name, _) => return Err(Fault::bad("invalid trailer name")),
            (State::Value, b'\r') => State::ValueLf,
            (State::Value, _) if is_value(&[byte]) => State::Value,
            (State::Value, _) => return Err(Fault::bad("control character in a trailer")),
            (State::ValueLf, b'\n') => State::Line,
            (State::ValueLf, _) => return Err(Fault::bad("bare CR in a trailer")),
            (State::EndLf, b'\n') => State::End,
            (State::EndLf, _) => return Err(Fault::bad("bare CR after the last chunk")),
            (State::End, _) => State::End,
        };
        match self.state {
            State::Space | State::Extension => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err(Fault::bad("chunk extensions over the limit"));
                }
            }
            State::Name | State::Value | State::ValueLf => {
                self.trailers += 1;
                if self.trailers > MAX_TRAILERS {
                    return Err(Fault::bad("trailers over the limit"));
                }
            }
            _ => {}
        }
        Ok(1)
    }

    fn digit(&mut self, byte: u8) -> Result<State, Fault> {
        let Some(value) = char::from(byte).to_digit(16) else { return Err(Fault::bad("invalid chunk size")) };
        if self.digits == MAX_DIGITS {
            return Err(Fault::bad("chunk size over the limit"));
        }
        if self.digits == 0 {
            self.size = 0;
        }
        self.digits += 1;
        self.size = self.size << 4 | u64::from(value);
        Ok(State::Size)
    }
}
