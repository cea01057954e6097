//! The words for why a request ended as it did. The same word stands in the problem document, the access log and the
//! `reason` label, so that a user can go from one to the other.

use std::fmt;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// Every one, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// A dense number, for cells.
            pub fn index(self) -> usize {
                self as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Why shardgate itself ended a request. Which status each becomes is decided in `message::respond` alone.
    Reason {
        /// The request is not valid HTTP.
        BadRequest = "bad_request",
        /// No source yielded an asset.
        NoAsset = "no_asset",
        /// No route matches.
        NoRoute = "no_route",
        /// No pool serves the asset, here or in a fallback region.
        UnknownAsset = "unknown_asset",
        /// A source named a region that is not configured.
        UnknownRegion = "unknown_region",
        /// A route matches, but not with this method.
        MethodNotAllowed = "method_not_allowed",
        /// The client took too long to send its request's head.
        RequestTimeout = "request_timeout",
        /// The client took too long to send its request's body.
        BodyTimeout = "body_timeout",
        /// The request body is over the limit.
        RequestTooLarge = "request_too_large",
        /// The request is for another host than the connection.
        MisdirectedRequest = "misdirected_request",
        /// The request target is over the limit.
        TargetTooLong = "target_too_long",
        /// The request head is over a limit.
        HeadersTooLarge = "headers_too_large",
        /// The client asked too often.
        RateLimited = "rate_limited",
        /// No backend could be connected to.
        ConnectFailed = "connect_failed",
        /// The backend's connection broke before its response head.
        UpstreamReset = "upstream_reset",
        /// What the backend sent is not valid HTTP.
        UpstreamProtocolError = "upstream_protocol_error",
        /// The backend takes no requests for tunnels.
        TunnelUnsupported = "tunnel_unsupported",
        /// No tier has a usable backend.
        NoHealthyBackend = "no_healthy_backend",
        /// A limit of ours or of every backend is reached.
        Overloaded = "overloaded",
        /// Waited too long for a place at a backend.
        QueueTimeout = "queue_timeout",
        /// We are shutting down.
        Draining = "draining",
        /// No answer in time.
        UpstreamTimeout = "upstream_timeout",
        /// The exchange as a whole took too long.
        ExchangeTimeout = "exchange_timeout",
        /// Nothing went through the tunnel for too long.
        TunnelTimeout = "tunnel_timeout",
        /// The client took its answer too slowly, and was cut off.
        SlowReader = "slow_reader",
        /// The client went away first (logged as 499).
        ClientClosed = "client_closed",
        /// The backend's body ended early.
        UpstreamTruncated = "upstream_truncated",
        /// The backend's body stopped coming.
        UpstreamStalled = "upstream_stalled",
    }
}

words! {
    /// How one try at one backend ended.
    Outcome {
        /// A response that is not a gateway error, complete.
        Ok = "ok",
        /// No connection.
        ConnectFailed = "connect_failed",
        /// The connection broke before the response head.
        Reset = "reset",
        /// No response head in time.
        Timeout = "timeout",
        /// Not valid HTTP.
        ProtocolError = "protocol_error",
        /// 502, 503 or 504.
        GatewayError = "gateway_error",
        /// The body ended early.
        Truncated = "truncated",
    }
}
