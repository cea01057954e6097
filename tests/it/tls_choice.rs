//! Which certificate a client gets that can check only some, and where TLS is spoken besides TCP.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, SignatureScheme, StreamOwned};

use crate::support::tls::{AcceptAll, TlsClient};
use crate::support::{DEADLINE, Proxy};
use crate::tls::{Rig, serial};

#[test]
fn two_certificates_for_one_name_and_the_client_s_choice() {
    let rig = Rig::new(&[("ecdsa", &["a.test"]), ("other", &["b.test"])]);
    let rsa = rig.authority.sign_rsa(&["a.test"]);
    rsa.write(rig.path(), "rsa");
    let proxy = rig.start("", &["other", "ecdsa", "rsa"]);
    let got = |version, schemes: &[SignatureScheme]| {
        let verifier = Arc::new(AcceptAll { schemes: schemes.to_vec(), ..AcceptAll::default() });
        let client = TlsClient::build(&rig.authority, &[version], None);
        let client = client.edit(|config| config.dangerous().set_certificate_verifier(verifier));
        let mut connection = client.connect(proxy.address(), "a.test");
        assert_eq!(connection.get("/v1/BTC").status, 200);
        serial(&connection) == rsa.der.to_vec()
    };
    let (ecdsa, rsa) = ([SignatureScheme::ECDSA_NISTP256_SHA256], [SignatureScheme::RSA_PSS_SHA256]);
    for version in [&TLS12, &TLS13] {
        assert!(!got(version, &ecdsa), "only ECDSA");
        assert!(got(version, &rsa), "only RSA");
        assert!(!got(version, &[rsa, ecdsa].concat()), "both: the one that stands first in the file");
    }
}

#[test]
fn a_unix_socket_speaks_tls_as_well() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let socket = rig.path().join("gate.sock");
    let listener = rig.listener("main", "", &["site"]);
    let listener = listener.replace("127.0.0.1:0", &format!("unix:{}", socket.display()));
    let proxy = Proxy::start(&rig.config(&listener));
    let stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let session = ClientConnection::new(rig.client().config(), name).unwrap();
    let mut stream = StreamOwned::new(session, stream);
    stream.write_all(b"GET /v1/BTC HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(proxy.access_where(|line| line["status"] == 200)["tls_version"], "1.3");
    assert_eq!(rig.origin.requests()[0].header("x-forwarded-proto"), Some("https"));
}

/// The field in which a backend hears who a client is, sent by clients themselves: by one who has shown a certificate, by
/// one who has not, and in the spellings that some servers take for it.
#[test]
fn what_a_client_says_of_its_own_certificate_goes_nowhere() {
    let rig = Rig::new(&[("site", &["a.test"])]);
    let proxy = rig.start("client_ca = \"DIR/ca.pem\"\nclient_auth = \"optional\"", &["site"]);
    let fields = [
        ("X-Forwarded-Client-Cert", "Subject=\"CN=root\""),
        ("X_Forwarded_Client_Cert", "Subject=\"CN=root\""),
        ("x-forwarded-client-CERT", "Subject=\"CN=admin\""),
    ];
    let me = rig.authority.sign(&["me"]);
    for (client, heard) in [
        (TlsClient::new(&rig.authority), vec![]),
        (TlsClient::with_identity(&rig.authority, &me), vec!["Subject=\"CN=me\""]),
    ] {
        assert_eq!(client.connect(proxy.address(), "a.test").request("GET", "/v1/BTC", &fields, b"").status, 200);
        let request = rig.origin.take_requests().pop().unwrap();
        assert_eq!(request.header_all("x-forwarded-client-cert"), heard);
        let head = String::from_utf8_lossy(&request.head);
        assert!(!head.contains("root") && !head.contains("admin"), "{head}");
    }
}
