"""Cameras: from a pose and a lens to the clip-space positions that the rasterizers take.

The world is right-handed with y up; a camera looks along the -z of its view space, x to the right and y up in
the image. Clip space is OpenGL's: visible x/w, y/w and z/w lie in [-1, 1], z/w is smaller when nearer, and w
is the distance along the view axis (1 for an orthographic camera, so that such images need `depth="ndc"`).

Numbers, lists and numpy arrays become float32 tensors on the CPU or on the device of the tensors they come
with; tensors keep their dtype, device and gradient, so that every parameter of a camera can be optimised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slangrast.topology import describe
from slangrast.transforms import (
    Value,
    broadcast,
    check_last_dimensions,
    look_at_matrix,
    opencv_matrices,
    orbit_matrix,
    orthographic_matrix,
    perspective_matrix,
    together,
    transform,
)

__all__ = ["Camera", "transform"]


@dataclass(frozen=True, eq=False)
class Camera:
    """One camera, or a batch of N, as two matrices; immutable.

    Make one with `look_at`, `orbit` or `from_opencv`; `perspective` and `orthographic` exchange the lens of a
    camera that has a pose::

        camera = Camera.orbit(2.7, 30.0, [0.0, 90.0, 180.0], fov_degrees=30.0)
        clip = camera.project(vertices)                    # [3, V, 4]
        camera = Camera.look_at((0, 1, 5)).orthographic(height=2.0, aspect=4 / 3)

    Args:
        view: [4, 4] or [N, 4, 4] float, world to view space, for column vectors. Differentiable.
        projection: [4, 4] or [N, 4, 4] float, view to clip space. Differentiable. One of the two may be a
            batch of 1; both attributes are [N, 4, 4] afterwards.

    Raises:
        TypeError, ValueError: wrong shapes, or batch sizes, dtypes or devices that do not fit.
    """

    view: Tensor
    projection: Tensor

    def __post_init__(self) -> None:
        for name in ("view", "projection"):
            matrix = getattr(self, name)
            if not isinstance(matrix, Tensor) or not matrix.dtype.is_floating_point:
                raise TypeError(f"Camera: {name} must be [4, 4] or [N, 4, 4] float, got {describe(matrix)}")
            check_last_dimensions("Camera", name, matrix, "[4, 4] or [N, 4, 4] float", (4, 4))
        if self.view.dtype != self.projection.dtype or self.view.device != self.projection.device:
            kinds = [f"{matrix.dtype} on {matrix.device}" for matrix in (self.view, self.projection)]
            raise ValueError(f"Camera: projection must be {kinds[0]}, like view, got {kinds[1]}")
        view, projection = broadcast("Camera", self.view.reshape(-1, 4, 4), self.projection.reshape(-1, 4, 4))
        object.__setattr__(self, "view", view)
        object.__setattr__(self, "projection", projection)

    @classmethod
    def look_at(
        cls,
        eye: Value,
        target: Value = (0.0, 0.0, 0.0),
        up: Value = (0.0, 1.0, 0.0),
        *,
        fov_degrees: Value = 30.0,
        aspect: Value = 1.0,
        near: Value = 1.0,
        far: Value = 100.0,
        handedness: str = "right",
    ) -> Camera:
        """A perspective camera at `eye` that looks at `target`.

        Args:
            eye: three numbers or [N, 3] float, world units. Differentiable.
            target: three numbers or [N, 3] float, world units, not equal to `eye`. Differentiable.
            up: three numbers or [N, 3] float, any length: the world direction that points up in the image.
                Where it is parallel to the view axis, the world axis most across that axis takes its place.
                Differentiable.
            fov_degrees, aspect, near, far: as `perspective`.
            handedness: "right", or "left" for renderers in which the image's x axis is up x forward, not
                forward x up (SoftRas, Direct3D): the pictures are mirrored left to right, and with them the
                winding of faces.

        Returns:
            The camera.

        Raises:
            TypeError, ValueError: wrong shapes, `eye` equal to `target` (checked on the CPU), or as
                `perspective`.
        """
        view = look_at_matrix(eye, target, up, handedness)
        return cls._with_lens(view, fov_degrees, aspect, near, far)

    @classmethod
    def orbit(
        cls,
        distance: Value,
        elevation_degrees: Value,
        azimuth_degrees: Value,
        *,
        target: Value = (0.0, 0.0, 0.0),
        fov_degrees: Value = 30.0,
        aspect: Value = 1.0,
        near: Value = 1.0,
        far: Value = 100.0,
        handedness: str = "right",
    ) -> Camera:
        """A perspective camera on a sphere around `target`, with the world's y axis up in the image.

        eye = target + distance (cos el sin az, sin el, -cos el cos az), as SoftRas places its cameras.

        Args:
            distance: number or [N] float, world units, above 0. Differentiable.
            elevation_degrees: number or [N] float, degrees; 90 looks straight down. Nothing jumps at the
                poles: further on the camera passes over them and sees the world upside down. Differentiable.
            azimuth_degrees: number or [N] float, degrees; 0 is on the -z side, 90 on the +x side.
                Differentiable.
            target: three numbers or [N, 3] float, world units. Differentiable.
            fov_degrees, aspect, near, far: as `perspective`.
            handedness: as `look_at`. Images made by SoftRas need "left".

        Returns:
            The camera, or N of them.

        Raises:
            TypeError, ValueError: wrong shapes, a distance that is not above 0 (checked on the CPU), or as
                `perspective`.
        """
        view = orbit_matrix(distance, elevation_degrees, azimuth_degrees, target, handedness)
        return cls._with_lens(view, fov_degrees, aspect, near, far)

    @classmethod
    def from_opencv(
        cls,
        K: Value,
        R: Value,
        t: Value,
        resolution: tuple[int, int],
        *,
        near: Value = 1.0,
        far: Value = 100.0,
        pixel_center: float = 0.0,
    ) -> Camera:
        """A calibrated camera: a world point X lands on the pixel (u, v) with s (u, v, 1) = K (R X + t).

        Args:
            K: [3, 3] or [N, 3, 3] float, pixels: ((fx, skew, cx), (0, fy, cy), (0, 0, 1)), no distortion.
                Differentiable.
            R: [3, 3] or [N, 3, 3] float, world to camera rotation; OpenCV's camera has x right, y down, z
                forward. Differentiable.
            t: [3] or [N, 3] float, world to camera translation, world units. Differentiable.
            resolution: (height, width) in pixels of the images that K belongs to.
            near, far: as `perspective`.
            pixel_center: where K puts the centre of the top-left pixel: 0.0 in OpenCV, 0.5 in COLMAP.

        Returns:
            The camera; it renders at any resolution of the same aspect.

        Raises:
            TypeError, ValueError: wrong shapes, a last row of K other than (0, 0, 1) (checked on the CPU), or
                a wrong range.
        """
        return cls(*opencv_matrices(K, R, t, resolution, near, far, pixel_center))

    @classmethod
    def _with_lens(cls, view: Tensor, fov_degrees: Value, aspect: Value, near: Value, far: Value) -> Camera:
        # The view matrix goes along for its dtype and device.
        lens = together("perspective", view=view, fov_degrees=fov_degrees, aspect=aspect, near=near, far=far)
        return cls(lens[0], perspective_matrix(*lens[1:]))

    def perspective(
        self, fov_degrees: Value = 30.0, aspect: Value = 1.0, near: Value = 1.0, far: Value = 100.0
    ) -> Camera:
        """The same pose with a pinhole lens.

        Args:
            fov_degrees: number or [N] float, degrees between 0 and 180: the whole vertical angle of view,
                whatever the aspect. Differentiable.
            aspect: number or [N] float, width / height of the image, above 0. Differentiable.
            near, far: numbers or [N] float, world units along the view axis, 0 < near < far, where z/w is -1
                and 1. The defaults are those of `soft_rasterize`. Differentiable.

        Returns:
            A new camera.

        Raises:
            TypeError, ValueError: wrong shapes, or values out of range (checked on the CPU).
        """
        return self._with_lens(self.view, fov_degrees, aspect, near, far)

    def orthographic(self, height: Value = 2.0, aspect: Value = 1.0, near: Value = 1.0, far: Value = 100.0) -> Camera:
        """The same pose with parallel rays; w is 1 everywhere, so soft images need `depth="ndc"`.

        Args:
            height: number or [N] float, world units that the image shows from bottom to top. Differentiable.
            aspect: number or [N] float, width / height of the image, above 0. Differentiable.
            near, far: numbers or [N] float, world units along the view axis, near < far, where z/w is -1 and
                1. Differentiable.

        Returns:
            A new camera.

        Raises:
            TypeError, ValueError: wrong shapes, or values out of range (checked on the CPU).
        """
        view, *lens = together("orthographic", view=self.view, height=height, aspect=aspect, near=near, far=far)
        return type(self)(view, orthographic_matrix(*lens))

    @property
    def matrix(self) -> Tensor:
        """[N, 4, 4] float: world to clip space, projection @ view."""
        return self.projection @ self.view

    @property
    def eye(self) -> Tensor:
        """[N, 3] float: where the cameras are, world units. Differentiable."""
        return torch.linalg.solve(self.view[:, :3, :3], -self.view[:, :3, 3])

    def project(self, vertices: Tensor) -> Tensor:
        """Clip-space positions [N, V, 4] of world points [V, 3] or [N, V, 3]: `transform` with `matrix`."""
        return transform(vertices, self.matrix)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Camera:
        """The camera on another device or in another floating-point dtype; gradients flow back through it."""
        return type(self)(self.view.to(device=device, dtype=dtype), self.projection.to(device=device, dtype=dtype))

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Camera:
        """Some cameras of the batch, in the order asked for; an int gives a batch of one."""
        return type(self)(self.view[index], self.projection[index])
