"""Keys, tokens and a certificate for the comparison: signed here, by none of those that are compared."""

import base64
import datetime
import json
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

ISSUER, AUDIENCE = "https://id.example.com", "orders"
LIFE_S = 12 * 3600


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Signer:
    def __init__(self, algorithm: str):
        self.algorithm = algorithm
        self.key = rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else ec.generate_private_key(ec.SECP256R1())
        self.head = b64(json.dumps({"alg": algorithm, "typ": "at+jwt", "kid": algorithm}).encode())

    def pem(self) -> bytes:
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.PEM, public)

    def jwk(self) -> dict:
        numbers = self.key.public_key().public_numbers()
        common = {"kid": self.algorithm, "alg": self.algorithm, "use": "sig"}
        if self.algorithm == "RS256":
            return common | {"kty": "RSA", "n": b64(numbers.n.to_bytes(256, "big")), "e": b64(numbers.e.to_bytes(3, "big"))}
        return common | {"kty": "EC", "crv": "P-256", "x": b64(numbers.x.to_bytes(32, "big")), "y": b64(numbers.y.to_bytes(32, "big"))}

    def sign(self, number: int, **changes) -> str:
        """A token such as identity providers write: some 300 bytes of claims."""
        now = int(time.time())
        claims = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": f"user-{number}", "sid": f"session-{number}", "jti": f"5f0c2c1e-{number:012x}",
            "iat": now, "exp": now + LIFE_S, "client_id": "web-shop", "scope": "openid profile orders:read orders:write",
        } | changes
        signed = self.head + "." + b64(json.dumps(claims).encode())
        if self.algorithm == "RS256":
            signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        else:
            r, s = utils.decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return signed + "." + b64(signature)


def certificate() -> bytes:
    """The servers' own, with its key: P-256, as most are today. No client of the comparison checks who signed it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    draft = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=30)).add_extension(names, False)
    signed = draft.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return signed + key.private_bytes(*form)


def make(folder: Path, many: int) -> None:
    """`jwks.json`, a PEM for each key, the certificate, and files of tokens, one a line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server.pem").write_bytes(certificate())
    signers = [Signer("RS256"), Signer("ES256")]
    (folder / "jwks.json").write_text(json.dumps({"keys": [signer.jwk() for signer in signers]}))
    for signer in signers:
        name = signer.algorithm
        tokens = [signer.sign(number) for number in range(many)]
        head, payload, _ = tokens[0].split(".")
        past = int(time.time()) - 86400
        files = {
            "hot": tokens[:1], "thousand": tokens[:1000], "many": tokens,
            # The signature of another token: form and key are right.
            "forged": [f"{head}.{payload}.{tokens[1].split('.')[2]}"],
            "expired": [signer.sign(1, iat=past, exp=past + 3600)],
            "revoked": [signer.sign(2, sid="revoked-session")],
        }
        (folder / f"{name}.pem").write_bytes(signer.pem())
        for kind, lines in files.items():
            (folder / f"{name}.{kind}").write_text("\n".join(lines) + "\n")
    # Last, so that whoever finds it finds all of them.
    (folder / "made").write_text(str(many))


if __name__ == "__main__":
    import sys

    make(Path(sys.argv[1]), int(sys.argv[2]))
