//! TLS and mutual TLS: what is accepted, what is refused with which words, what changes while the server runs.

mod common;

use common::{client, program::*, *};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

/// An authority, and certificates of its own in files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder: folder.to_owned() }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// A pair of `<name>.pem` and `<name>.key`, valid in these years.
    fn issue(&self, name: &str, years: [i32; 2]) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(years[0], 1, 1), date_time_ymd(years[1], 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn client(&self, address: SocketAddr, own: Option<&str>) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let cert = CertificateDer::from_pem_file(self.file(&format!("{name}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.file(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
    }

    fn get(&self, address: SocketAddr, path: &str, own: Option<&str>) -> std::io::Result<Reply> {
        let mut stream = self.client(address, own);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        client::read(stream, "GET")
    }

    /// The certificate that the server shows.
    fn shown(&self, address: SocketAddr) -> Vec<u8> {
        let mut stream = self.client(address, None);
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    }
}

const NOW: [i32; 2] = [2000, 2200];

fn stderr_of(mut program: Program) -> String {
    program.signal("TERM");
    program.child.wait().unwrap();
    let mut said = String::new();
    program.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    said
}

#[test]
fn pages_over_tls_and_a_new_certificate() {
    let fixture = Fixture::new();
    let ca = Authority::new(&fixture.dir.path().join("tls"));
    ca.issue("server", NOW);
    ca.issue("other", NOW);
    let (cert, key) = (ca.file("server.pem"), ca.file("server.key"));
    let program = Program::start(&fixture.store(), &["--tls-cert", &cert, "--tls-key", &key]);
    assert!(program.message[0].starts_with("listening on https://"));
    let reply = ca.get(program.address, "/pid/10/page/10000000", None).unwrap();
    assert_eq!(reply.body, expected(10, HEAP).unwrap());
    assert!(client::read(client::open(program.address, "GET", "/pid", &[], b""), "GET").is_err(), "plain text");
    assert!(ca.get(program.address, &big(), None).unwrap().body == expected_range(20, BIG, BIG_PAGES));

    let first = ca.shown(program.address);
    // Half of a pair changes nothing.
    fs::copy(ca.file("other.pem"), &cert).unwrap();
    program.signal("HUP");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(ca.shown(program.address), first);
    fs::copy(ca.file("other.key"), &key).unwrap();
    eventually(|| ca.shown(program.address) != first);
    let said = stderr_of(program);
    assert!(said.contains("is not the key of the certificate") && said.contains("in use stays"), "{said}");
}

#[test]
fn only_clients_with_a_certificate() {
    let fixture = Fixture::new();
    let ca = Authority::new(&fixture.dir.path().join("tls"));
    let strangers = Authority::new(&fixture.dir.path().join("strangers"));
    ["server", "client"].iter().for_each(|name| ca.issue(name, NOW));
    ca.issue("past", [2000, 2001]);
    strangers.issue("stranger", NOW);
    for extension in ["pem", "key"] {
        let name = format!("stranger.{extension}");
        fs::copy(strangers.file(&name), ca.file(&name)).unwrap();
    }
    let (cert, key, authority) = (ca.file("server.pem"), ca.file("server.key"), ca.file("ca.pem"));
    // A public address: who comes has to have a certificate.
    let arguments = ["--listen", "0.0.0.0:0", "--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &authority];
    let program = Program::start(&fixture.store(), &arguments);
    let address = ([127, 0, 0, 1], program.address.port()).into();
    assert_eq!(ca.get(address, "/pid", Some("client")).unwrap().status, 200);
    for own in [None, Some("stranger"), Some("past")] {
        assert!(ca.get(address, "/pid", own).is_err(), "{own:?}");
    }
    let metrics = ca.get(address, "/metrics", Some("client")).unwrap().text();
    assert_eq!(client::metric(&metrics, "pageferry_connections_ended_total{reason=\"handshake\"}"), 3);
}

#[test]
fn what_is_refused_at_start() {
    let fixture = Fixture::new();
    let ca = Authority::new(&fixture.dir.path().join("tls"));
    ca.issue("good", NOW);
    ca.issue("other", NOW);
    ca.issue("past", [2000, 2001]);
    ca.issue("future", [2190, 2191]);
    fs::write(ca.folder.join("empty"), "").unwrap();
    fs::write(
        ca.folder.join("encrypted.key"),
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    )
    .unwrap();
    for (cert, key, words) in [
        ("past.pem", "past.key", &["past.pem", "expired on", "renew"][..]),
        ("future.pem", "future.key", &["future.pem", "is not valid before", "clock"]),
        ("good.pem", "other.key", &["other.key is not the key of the certificate in", "good.pem"]),
        ("good.pem", "nowhere.key", &["nowhere.key", "cannot open"]),
        ("empty", "good.key", &["empty", "has no certificate"]),
        ("good.key", "good.key", &["good.key", "has no certificate"]),
        ("good.pem", "good.pem", &["good.pem", "has no private key"]),
        ("good.pem", "encrypted.key", &["encrypted.key", "is encrypted", "openssl pkey"]),
    ] {
        let output = Command::new(PROGRAM)
            .arg(fixture.store())
            .args(["--listen", "127.0.0.1:0", "--tls-cert", &ca.file(cert), "--tls-key", &ca.file(key)])
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && words.iter().all(|word| error.contains(word)), "{cert} {key}: {error}");
    }
}

#[test]
fn who_does_not_shake_hands_holds_no_place() {
    let fixture = Fixture::new();
    let ca = Authority::new(&fixture.dir.path().join("tls"));
    ca.issue("server", NOW);
    let (cert, key) = (ca.file("server.pem"), ca.file("server.key"));
    let arguments = ["--tls-cert", &cert, "--tls-key", &key, "--max-connections", "2"];
    let program = Program::start(&fixture.store(), &arguments);
    let silent: Vec<_> = (0..4).map(|_| TcpStream::connect(program.address).unwrap()).collect();
    assert_eq!(ca.get(program.address, "/pid", None).unwrap().status, 200);
    drop(silent);
}
