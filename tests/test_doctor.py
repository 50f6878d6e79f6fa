from importlib import metadata

from packaging.requirements import Requirement

from vertinst import doctor


def test_everything_needed_is_listed_with_its_version():
    findings = {f.what: f for f in doctor.examine()}
    assert findings["torch"].found == metadata.version("torch")
    assert findings["torchvision operators"].found == "work"
    assert not any(f.fatal for f in findings.values())
    assert findings["precision auto"].found.startswith(("32", "bf16"))


def test_a_missing_or_old_package_comes_with_its_command():
    missing = doctor._package(Requirement("no-such-package-here>=1"))
    assert missing.fatal
    assert missing.mend == 'pip install "no-such-package-here>=1"'
    old = doctor._package(Requirement("torch>=99"))
    assert old.fatal
    assert "needs >=99" in old.found


def test_a_dicom_decoder_that_does_not_load_comes_with_its_command(monkeypatch):
    assert doctor._dicom().mend == ""
    monkeypatch.setattr("vertinst.data.dicom_pixels.missing_decoders", lambda: {"JPEG Lossless": "python-gdcm"})
    assert "JPEG Lossless" in doctor._dicom().found
    assert doctor._dicom().mend == "pip install --force-reinstall python-gdcm"


def test_a_missing_extra_comes_with_its_command_and_is_no_fault(monkeypatch):
    installed = {f.what: f for f in doctor._extras()}
    assert f"onnxruntime {metadata.version('onnxruntime')}" in installed["extra onnx"].found
    assert not installed["extra openvino"].mend

    def version(name, find=metadata.version):
        if name == "openvino":
            raise metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(metadata, "version", version)
    missing = {f.what: f for f in doctor._extras()}["extra openvino"]
    assert missing.found.startswith("openvino missing: needed for export-model --format openvino")
    assert missing.mend == 'pip install "vertinst[openvino]"'
    assert not missing.fatal


def test_one_thread_is_not_called_threads():
    assert doctor._cpu(2, 1) == "2 cores, torch uses 1 thread"
    assert doctor._cpu(1, 8) == "1 core, torch uses 8 threads"
