//! What a connection to a backend begins with.

/// Whether a connection to a backend begins with a header of the PROXY protocol, and of which version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProxyProtocol {
    /// With none.
    #[default]
    Off,
    /// A line of text.
    V1,
    /// A binary block.
    V2,
}
