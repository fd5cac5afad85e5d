//! Certificates for tests: a CA, and what it signs. PEM.

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// A private CA.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// Makes a CA.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("failed to sign the CA")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// The CA's own certificate.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Signs a certificate for a host, or for a client of that name.
    pub fn certify(&self, name: &str) -> anyhow::Result<Certified> {
        self.certify_names(&[name])
    }

    /// Signs a certificate for a host of several names and addresses; the first is its common name.
    pub fn certify_names(&self, names: &[&str]) -> anyhow::Result<Certified> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, names[0]);
        self.sign(&params, &key)
    }

    /// Signs a certificate for a client of Kubernetes: its user is the common name, each group an organisation.
    ///
    /// # Errors
    /// There are more than two groups: rcgen has one value for each type of a name, and an organisation can be said in two
    /// ways, by its name and by its number.
    pub fn certify_user(&self, user: &str, groups: &[&str]) -> anyhow::Result<Certified> {
        let organisations = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        anyhow::ensure!(groups.len() <= organisations.len(), "more than two groups: {groups:?}");
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        for (organisation, group) in organisations.into_iter().zip(groups) {
            params.distinguished_name.push(organisation, *group);
        }
        self.sign(&params, &key)
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> anyhow::Result<Certified> {
        let certificate = params.signed_by(key, &self.issuer).context("failed to sign a certificate")?;
        Ok(Certified { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
