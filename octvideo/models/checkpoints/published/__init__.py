"""File formats and names of published weights: the paper's authors' (MXNet) and Caffe2's."""
