//! The question that `/api/v1/explain` is asked: a request that is not made.

use std::net::IpAddr;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use super::problem::Problem;

/// A request that is not made: `?method=&url=&client=&header=`.
#[derive(Debug)]
pub(super) struct Question {
    /// As it would arrive. Of a full URL, the host stands in the Host field.
    pub(super) request: http::request::Parts,
    /// Where it would come from.
    pub(super) client: Option<IpAddr>,
}

impl Question {
    /// Reads the parameters. `url` is needed and is a path or a full URL; `method` is GET unless given; `header` is
    /// `name: value` and may come more than once; other parameters are errors, so that a misspelt one is not ignored.
    pub(super) fn from_parameters(parameters: &[(String, String)]) -> Result<Self, Problem> {
        let mut method = Method::GET;
        let mut url = None;
        let mut client = None;
        let mut headers = HeaderMap::new();
        for (name, value) in parameters {
            match name.as_str() {
                "method" => method = value.parse().map_err(|_| bad("method is not a method"))?,
                "url" => url = Some(value.parse::<Uri>().map_err(|_| bad("url is neither a path nor a URL"))?),
                "client" if value.is_empty() => {}
                "client" => client = Some(value.parse().map_err(|_| bad("client is not an address"))?),
                "header" => {
                    let (name, value) = field(value).ok_or_else(|| bad("header is not `name: value`"))?;
                    headers.append(name, value);
                }
                other => return Err(bad(format!("no parameter {other}: there are method, url, client, header"))),
            }
        }
        let url = url.ok_or_else(|| bad("url is missing"))?;
        let host = url.authority().map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default());
        if let Some(host) = host.and_then(|host| HeaderValue::from_str(host).ok())
            && !headers.contains_key(header::HOST)
        {
            headers.insert(header::HOST, host);
        }
        let target = url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let (mut request, ()) = http::Request::new(()).into_parts();
        request.method = method;
        request.uri = Uri::from(target);
        request.headers = headers;
        Ok(Self { request, client })
    }
}

fn field(text: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad_request", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(parameters: &[(&str, &str)]) -> Result<Question, Problem> {
        let owned: Vec<_> = parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Question::from_parameters(&owned)
    }

    #[test]
    fn a_question_is_read() {
        let question = ask(&[
            ("url", "https://user@api.example.com:8443/v1/BTC?x=1"),
            ("method", "POST"),
            ("client", "2001:db8::1"),
            ("header", "X-Region: west"),
            ("header", "cookie:a=b"),
        ])
        .unwrap();
        assert_eq!(question.request.method, Method::POST);
        assert_eq!(question.request.uri, "/v1/BTC?x=1");
        assert_eq!(question.request.headers["host"], "api.example.com:8443");
        assert_eq!(question.request.headers["x-region"], "west");
        assert_eq!(question.request.headers["cookie"], "a=b");
        assert_eq!(question.client, "2001:db8::1".parse().ok());

        let bare = ask(&[("url", "/v1/BTC"), ("client", "")]).unwrap();
        assert_eq!((bare.request.method, bare.client), (Method::GET, None));
        assert!(bare.request.headers.is_empty());
        let named = ask(&[("url", "http://a"), ("header", "host: b")]).unwrap();
        assert_eq!((named.request.uri.path(), &named.request.headers["host"]), ("/", &HeaderValue::from_static("b")));
    }

    #[test]
    fn a_question_that_is_none() {
        for parameters in [
            &[][..],
            &[("url", "not a url")],
            &[("url", "/"), ("method", " ")],
            &[("url", "/"), ("client", "10.0.0")],
            &[("url", "/"), ("header", "x")],
            &[("url", "/"), ("header", "x: a\nb")],
            &[("url", "/"), ("uri", "/")],
        ] {
            assert!(ask(parameters).is_err(), "{parameters:?}");
        }
    }
}
