"""Authorities that sign certificates for nodes, on disk as `proto.tls.read_tls` takes them."""

import datetime
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from potluck.proto.tls import Tls, read_tls

PEM, DAY = serialization.Encoding.PEM, datetime.timedelta(days=1)


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Signs for nodes; its files are in a folder."""

    def __init__(self, folder):
        self._folder, self._key, self._name = folder, ec.generate_private_key(ec.SECP256R1()), _name(folder.name)
        folder.mkdir()
        self._write("ca", self._key, self._signed(self._name, self._key, True))

    def tls(self, node, days=1):
        """What a node shows; with negative `days` its certificate has run out."""
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(node, key, self._signed(_name(node), key, False, days))
        return read_tls(*self.files(node))

    def files(self, node):
        return tuple(self._folder / name for name in (f"{node}.pem", f"{node}.key", "ca.pem"))

    def without_certificate(self):
        """A stranger who believes this authority, but has nothing to show."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self._folder / "ca.pem")
        return Tls(context, context)

    def _signed(self, subject, key, is_authority, days=1):
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - 3 * DAY)
            .not_valid_after(now + days * DAY)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _write(self, name, key, certificate):
        (self._folder / f"{name}.pem").write_bytes(certificate.public_bytes(PEM))
        form = serialization.PrivateFormat.PKCS8
        (self._folder / f"{name}.key").write_bytes(key.private_bytes(PEM, form, serialization.NoEncryption()))
