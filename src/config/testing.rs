//! Certificates for tests, and configurations whose files exist only in the test.

use std::collections::BTreeMap;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};

use super::{Files, Parsed, Report, parse_with};

/// 2026-06-01, when tests read files.
pub(crate) const NOW: i64 = 1_780_272_000;

/// A certificate and its key, as files have them.
pub(crate) struct Pem {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A CA.
pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Ca {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Returns a certificate for these names, with an ECDSA key.
    pub(crate) fn leaf(&self, names: &[&str]) -> Pem {
        self.leaf_with(names, KeyPair::generate().expect("a key"), |_| {})
    }

    /// Returns a certificate for these names and with this key, changed by `change`.
    pub(crate) fn leaf_with(
        &self,
        names: &[&str],
        key: KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pem {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pem { certificate, key: key.serialize_pem() }
    }

    /// Returns a list that revokes certificates with these serial numbers, to be replaced in a year.
    pub(crate) fn crl(&self, serials: &[u64], next_year: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next_year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

/// Files by their paths.
#[derive(Clone, Default)]
pub(crate) struct Folder(BTreeMap<String, Vec<u8>>);

impl Folder {
    pub(crate) fn with(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.0.insert(path.to_owned(), content.as_ref().to_vec());
        self
    }

    /// Adds `NAME.pem` and `NAME-key.pem`.
    pub(crate) fn with_pem(self, name: &str, pem: &Pem) -> Self {
        self.with(&format!("{name}.pem"), &pem.certificate).with(&format!("{name}-key.pem"), &pem.key)
    }

    /// Reads a configuration whose files are these.
    pub(crate) fn parse(&self, text: &str) -> Result<Parsed, Report> {
        let mut files = Files::read_at(NOW);
        loop {
            let parsed = parse_with("f", text.as_bytes(), &files);
            let wanted = files.take_wanted();
            if wanted.is_empty() {
                return parsed;
            }
            for path in wanted {
                let shown = path.display().to_string();
                let content = self.0.get(&shown).cloned();
                files.insert(path, content.ok_or_else(|| format!("{shown}: cannot be read: not there")));
            }
        }
    }

    /// Reads a short form whose listener has this section `tls`.
    pub(crate) fn listener(&self, tls: &str) -> Result<Parsed, Report> {
        self.parse(&format!(
            "loadbalancer: {{listen_address: ':1', tls: {tls}}}\nbackends: [{{name: b, address: h, port: 1}}]\n"
        ))
    }

    /// Reads a long form whose upstream has this section `tls`, these other keys and these backends.
    pub(crate) fn upstream(&self, tls: &str, keys: &str, backends: &str) -> Result<Parsed, Report> {
        self.parse(&format!(
            "listeners: [{{name: l, address: ':1', upstream: u}}]\nupstreams:\n  \
             - {{name: u, backends: [{backends}], tls: {tls}{keys}}}\n"
        ))
    }
}
