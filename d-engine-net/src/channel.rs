//! How this crate dials.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::{HTTP2_FRAME_LEN, WINDOW_LEN};

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// `host:port` out of what people write.
pub(crate) fn host_and_port(address: &str) -> &str {
    address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/')
}

/// Checks an address without dialling.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{}", host_and_port(address)))
        .map_err(|_| format!("{address:?} is not an address; write host:port"))?;
    if endpoint.uri().port_u16().is_none() {
        return Err(format!("{address:?} has no port; write host:port"));
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_LEN)
        .initial_connection_window_size(WINDOW_LEN)
        .max_frame_size(HTTP2_FRAME_LEN))
}

/// Connects, or says in plain words why not.
pub(crate) async fn dial(address: &str) -> Result<Channel, String> {
    endpoint(address)?.connect().await.map_err(|error| causes(&error))
}

/// An error with what caused it; tonic's own text is "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// What a broken stream says.
pub(crate) fn stream_end(status: &tonic::Status) -> String {
    match std::error::Error::source(status) {
        Some(source) => causes(source),
        None if status.message().is_empty() => format!("the stream ended with {}", status.code()),
        None => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        assert_eq!(host_and_port("http://a:1/"), "a:1");
        assert!(endpoint("127.0.0.1:9081").is_ok());
        assert!(endpoint("[::1]:9081").is_ok());
        assert!(endpoint("node-1").unwrap_err().contains("no port"));
        assert!(endpoint("").is_err());
        assert!(endpoint("a b:1").unwrap_err().contains("write host:port"));
    }
}
