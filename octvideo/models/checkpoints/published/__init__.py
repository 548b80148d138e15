"""Names and file formats of the authors' published weights (MXNet, Caffe2)."""
