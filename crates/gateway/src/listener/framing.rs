//! A second, strict reading of where each request begins and ends.
//!
//! Request smuggling needs two parsers that disagree. hyper is lenient where RFC 9112 allows it (bare LF, equal lengths
//! repeated, both kinds of length at once). This reader stands before it, sees the raw bytes, and refuses whatever
//! another parser could read differently. What passes has one meaning, and hyper writes it anew with one framing.

/// The most bytes of a chunk's size line with its extensions, and of empty lines before a request.
const CHUNK_LINE_MAX: usize = 256;
/// More digits would overflow 64 bits; RFC 9112, 7.1 demands care here.
const CHUNK_DIGITS_MAX: usize = 15;

/// Why a request is refused before it is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A line ends with LF alone.
    #[error("a line ends with LF instead of CRLF")]
    BareLf,
    /// CR stands elsewhere than before LF.
    #[error("CR stands without LF")]
    BareCr,
    /// The first line is not `method target HTTP/1.x`.
    #[error("the request line is malformed")]
    RequestLine,
    /// A protocol version other than 1.0 and 1.1.
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
    /// A header line without a name, with space around the name, or folded over two lines.
    #[error("a header name is malformed (whitespace before the colon, or a folded line)")]
    HeaderName,
    /// A header value with a control character.
    #[error("a header value has a control character")]
    HeaderValue,
    /// Content-Length is not one decimal number.
    #[error("Content-Length must be one decimal number")]
    ContentLength,
    /// Content-Length stands more than once.
    #[error("Content-Length stands more than once")]
    ContentLengthRepeated,
    /// Both Content-Length and Transfer-Encoding.
    #[error("Content-Length and Transfer-Encoding exclude each other")]
    BothLengths,
    /// Transfer-Encoding other than one `chunked`, or in HTTP/1.0.
    #[error("Transfer-Encoding must be just \"chunked\", in HTTP/1.1")]
    TransferEncoding,
    /// A malformed chunk.
    #[error("a chunk of the body is malformed")]
    Chunk,
    /// Too many or too long headers.
    #[error("the request's headers are too many or too long")]
    HeadTooLarge,
    /// The request line alone is too long.
    #[error("the request line is too long")]
    TargetTooLong,
}

/// The limits of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadLimits {
    pub(super) bytes_max: usize,
    pub(super) headers_max: usize,
}

/// Follows the bytes of one connection.
#[derive(Debug)]
pub(super) struct Framing {
    limits: HeadLimits,
    state: State,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    head_bytes: usize,
    headers: usize,
    length: Option<u64>,
    chunked: bool,
    http_10: bool,
    /// Bytes of the present message's body that have come.
    body_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between messages.
    Start,
    Headers,
    /// That many bytes of the body are still to come.
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
}

/// What a connection is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Head,
    /// In a body of which that many bytes have come.
    Body(u64),
}

/// Where and why the bytes stopped making sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Bytes before this one belong to messages that were whole or are being read.
    pub(super) message_start: usize,
    pub(super) error: FramingError,
}

impl Framing {
    pub(super) fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            state: State::Start,
            partial: Vec::new(),
            head_bytes: 0,
            headers: 0,
            length: None,
            chunked: false,
            http_10: false,
            body_bytes: 0,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Start if self.partial.is_empty() => Phase::Idle,
            State::Start | State::Headers => Phase::Head,
            _ => Phase::Body(self.body_bytes),
        }
    }

    /// How many of the next bytes certainly belong to a body of known length: they need no reading.
    pub(super) fn opaque(&self) -> u64 {
        match self.state {
            State::Body(left) | State::ChunkData(left) => left,
            _ => 0,
        }
    }

    /// Skips bytes of a body that were not looked at.
    ///
    /// # Panics
    /// If there are more of them than [`Framing::opaque`] said.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.body_bytes += bytes;
        match &mut self.state {
            State::Body(left) => {
                *left = left.checked_sub(bytes).expect("no more than opaque");
                if *left == 0 {
                    self.state = State::Start;
                }
            }
            State::ChunkData(left) => {
                *left = left.checked_sub(bytes).expect("no more than opaque");
                if *left == 0 {
                    self.state = State::ChunkEnd;
                }
            }
            _ => assert_eq!(bytes, 0, "no more than opaque"),
        }
    }

    /// Reads the next bytes of the connection.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let mut message_start = 0;
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Start && self.partial.is_empty() {
                message_start = at;
            }
            let opaque = usize::try_from(self.opaque()).unwrap_or(usize::MAX).min(bytes.len() - at);
            if opaque > 0 {
                self.skip(opaque as u64);
                at += opaque;
                continue;
            }
            let refuse = |error| Refused { message_start, error };
            let rest = &bytes[at..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.take_partial(rest).map_err(refuse)?;
                return Ok(());
            };
            at += end + 1;
            if self.partial.is_empty() {
                self.line(&rest[..=end]).map_err(refuse)?;
            } else {
                self.take_partial(&rest[..=end]).map_err(refuse)?;
                let line = std::mem::take(&mut self.partial);
                self.line(&line).map_err(refuse)?;
            }
        }
        Ok(())
    }

    /// Keeps the beginning of a line. Bounded by what the rest of the head, or a chunk's line, may still take.
    fn take_partial(&mut self, bytes: &[u8]) -> Result<(), FramingError> {
        let (room, error) = match self.state {
            State::ChunkSize | State::ChunkEnd => (CHUNK_LINE_MAX, FramingError::Chunk),
            State::Start => (self.limits.bytes_max, FramingError::TargetTooLong),
            _ => (self.limits.bytes_max.saturating_sub(self.head_bytes), FramingError::HeadTooLarge),
        };
        if self.partial.len() + bytes.len() > room {
            return Err(error);
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// One whole line with its LF.
    fn line(&mut self, line: &[u8]) -> Result<(), FramingError> {
        let text = match line.strip_suffix(b"\r\n") {
            Some(text) if memchr::memchr(b'\r', text).is_none() => text,
            Some(_) => return Err(FramingError::BareCr),
            None => return Err(FramingError::BareLf),
        };
        match self.state {
            State::Start => self.request_line(text),
            State::Headers if text.is_empty() => {
                self.begin_body();
                Ok(())
            }
            State::Headers => {
                self.count_line(line.len())?;
                self.header(text)
            }
            State::ChunkSize => self.chunk_size(text),
            State::ChunkEnd if text.is_empty() => {
                self.state = State::ChunkSize;
                Ok(())
            }
            State::ChunkEnd => Err(FramingError::Chunk),
            State::Trailers if text.is_empty() => {
                self.state = State::Start;
                Ok(())
            }
            State::Trailers => {
                self.count_line(line.len())?;
                split_header(text).map(drop)
            }
            State::Body(_) | State::ChunkData(_) => unreachable!("bodies are not read by lines"),
        }
    }

    fn count_line(&mut self, bytes: usize) -> Result<(), FramingError> {
        self.head_bytes += bytes;
        self.headers += 1;
        if self.head_bytes > self.limits.bytes_max || self.headers > self.limits.headers_max {
            return Err(FramingError::HeadTooLarge);
        }
        Ok(())
    }

    fn request_line(&mut self, text: &[u8]) -> Result<(), FramingError> {
        if text.is_empty() {
            // RFC 9112, 2.2: an empty line before a request is to be ignored; but not for ever.
            self.head_bytes += 2;
            return if self.head_bytes > CHUNK_LINE_MAX { Err(FramingError::RequestLine) } else { Ok(()) };
        }
        if text.len() + 2 > self.limits.bytes_max {
            return Err(FramingError::TargetTooLong);
        }
        let mut parts = text.split(|byte| *byte == b' ');
        let (method, target, version, more) = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(method), Some(target), Some(version), None) = (method, target, version, more) else {
            return Err(FramingError::RequestLine);
        };
        if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
            return Err(FramingError::RequestLine);
        }
        if target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
            return Err(FramingError::RequestLine);
        }
        self.http_10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            version if version.starts_with(b"HTTP/") => return Err(FramingError::Version),
            _ => return Err(FramingError::RequestLine),
        };
        self.head_bytes = text.len() + 2;
        self.headers = 0;
        self.length = None;
        self.chunked = false;
        self.state = State::Headers;
        Ok(())
    }

    fn header(&mut self, text: &[u8]) -> Result<(), FramingError> {
        let (name, value) = split_header(text)?;
        match name.len() {
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(FramingError::ContentLengthRepeated);
                }
                if self.chunked {
                    return Err(FramingError::BothLengths);
                }
                self.length = Some(decimal(length_value(value)?).ok_or(FramingError::ContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.length.is_some() {
                    return Err(FramingError::BothLengths);
                }
                if self.chunked || self.http_10 || !length_value(value)?.eq_ignore_ascii_case(b"chunked") {
                    return Err(FramingError::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn begin_body(&mut self) {
        self.body_bytes = 0;
        self.state = match (self.chunked, self.length) {
            (true, _) => State::ChunkSize,
            (false, Some(length)) if length > 0 => State::Body(length),
            _ => State::Start,
        };
        // From here on these bound the trailers, or blank lines before the next request.
        self.head_bytes = 0;
        self.headers = 0;
    }

    fn chunk_size(&mut self, text: &[u8]) -> Result<(), FramingError> {
        if text.len() > CHUNK_LINE_MAX {
            return Err(FramingError::Chunk);
        }
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = &text[digits..];
        let plain = extension.first().is_none_or(|byte| *byte == b';');
        if !(1..=CHUNK_DIGITS_MAX).contains(&digits) || !plain || !extension.iter().all(|byte| is_text(*byte)) {
            return Err(FramingError::Chunk);
        }
        let size = text[..digits].iter().fold(0, |size, digit| size << 4 | u64::from(hex_digit(*digit)));
        // The size line itself counts as progress, or many tiny chunks would look like a stall.
        self.body_bytes += text.len() as u64;
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Ok(())
    }
}

/// Name and value of a header line, so far as they can matter for framing: the name has no space at either end, so the
/// line is neither folded nor another name to a parser that trims. hyper checks every byte of both once more.
fn split_header(text: &[u8]) -> Result<(&[u8], &[u8]), FramingError> {
    let colon = memchr::memchr(b':', text).ok_or(FramingError::HeaderName)?;
    let (name, value) = (&text[..colon], &text[colon + 1..]);
    match (name.first(), name.last()) {
        (Some(first), Some(last)) if is_token(*first) && is_token(*last) => Ok((name, value)),
        _ => Err(FramingError::HeaderName),
    }
}

/// A value that says how long a body is: nothing but visible characters inside the space around it.
fn length_value(value: &[u8]) -> Result<&[u8], FramingError> {
    if value.iter().all(|byte| is_text(*byte)) { Ok(value.trim_ascii()) } else { Err(FramingError::HeaderValue) }
}

/// A decimal number without sign, space or list.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

fn hex_digit(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

/// `tchar` of RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// What may stand in a header value: visible characters, space, tab, and bytes over 0x7F.
fn is_text(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7F || byte == b'\t'
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
