"""A certificate authority of our own, as companies have one, and a server's certificate that it has signed."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def installed() -> bool:
    return shutil.which("openssl") is not None


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority's certificate, and what a server shows and keeps."""

    authority: Path
    certificate: Path
    key: Path


def made(folder: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> Certificates:
    """For a server of these names; valid for two days."""
    files = Certificates(folder / "authority.pem", folder / "server.pem", folder / "server-key.pem")
    signer, request, terms = folder / "authority-key.pem", folder / "server.csr", folder / "terms"
    terms.write_text(f"subjectAltName={names}\n")
    own = ("-x509", "-days", "2", "-subj", "/CN=An authority of our own")
    _openssl("req", *own, *_KEY, "-keyout", signer, "-out", files.authority)
    _openssl("req", "-subj", "/CN=server", *_KEY, "-keyout", files.key, "-out", request)
    signed_by = ("-CA", files.authority, "-CAkey", signer, "-CAcreateserial", "-days", "2")
    _openssl("x509", "-req", "-in", request, *signed_by, "-extfile", terms, "-out", files.certificate)
    return files


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
