/* Listens for seccomp listeners and answers every call that they hand on with ENOMEDIUM:
 *   agent SOCKET COUNT
 * Prints the container process state of each connection on a line of its own, and that it
 * listens before. Serves until it is killed. */
#include <errno.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void serve(int listener)
{
	struct seccomp_notif call;
	struct seccomp_notif_resp answer;

	for (;;) {
		memset(&call, 0, sizeof(call));
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call) < 0) {
			if (errno == EINTR)
				continue;
			_exit(0);
		}
		memset(&answer, 0, sizeof(answer));
		answer.id = call.id;
		answer.error = -ENOMEDIUM;
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int socket_fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (argc != 3 || strlen(argv[1]) >= sizeof(address.sun_path))
		return 2;
	strcpy(address.sun_path, argv[1]);
	if (bind(socket_fd, (void *)&address, sizeof(address)) || listen(socket_fd, 8))
		return 1;
	printf("listening\n");
	fflush(stdout);
	for (int left = atoi(argv[2]); left > 0; left--) {
		char text[1 << 16], control[CMSG_SPACE(sizeof(int))];
		struct iovec part = { .iov_base = text, .iov_len = sizeof(text) };
		struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1,
			.msg_control = control, .msg_controllen = sizeof(control) };
		int listener, connection = accept(socket_fd, NULL, NULL);
		ssize_t length = recvmsg(connection, &message, 0), more;
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);

		if (length < 0 || !header || header->cmsg_type != SCM_RIGHTS)
			return 1;
		memcpy(&listener, CMSG_DATA(header), sizeof(listener));
		while ((more = read(connection, text + length, sizeof(text) - length)) > 0)
			length += more;
		close(connection);
		fwrite(text, 1, length, stdout);
		printf("\n");
		fflush(stdout);
		if (fork() == 0)
			serve(listener);
		close(listener);
	}
	for (;;)
		pause();
}
